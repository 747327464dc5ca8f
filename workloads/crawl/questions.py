"""Questions about documentation that its pages answer and a small model can repeat the answer to."""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from s2l_jax.core.errors import InvalidArgument

PYTHON_QUESTIONS: tuple[str, ...] = (
    "What is a decorator?",
    "What is a virtual environment used for?",
    "What does the json module do?",
    "What does functools.lru_cache do?",
    "What is a lambda expression?",
    "How do I run a blocking function in a separate thread with asyncio.to_thread?",
    "What is a list comprehension?",
    "What is pip?",
    "What does heapq.heappushpop do?",
    "What is a docstring?",
    "What does the logging module do?",
    "What does shutil.rmtree do?",
    "What does collections.Counter do?",
    "What is duck typing?",
)

_NAME = re.compile(r"(?:class |exception |async )?([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)\(")


def questions_about(headings: Iterable[str], count: int, seed: int, first: Sequence[str] = ()) -> list[str]:
    """Questions: the first ones given, then what documented functions do, in an order of the seed's.

    Args:
      headings: of the documentation; those that are signatures such as `json.dumps(obj)` name functions.
      count: how many questions.
      seed: of the order.
      first: questions to begin with.

    Raises:
      InvalidArgument: there are fewer.
    """
    names = dict.fromkeys(match[1] for heading in headings if (match := _NAME.match(heading)))
    shuffled = np.random.default_rng(seed).permutation(len(names)).tolist()
    ordered = list(names)
    questions = [*first, *(f"What does {ordered[place]} do?" for place in shuffled)]
    if len(questions) < count:
        raise InvalidArgument(f"{count} questions are asked for, but there are only {len(questions)}")
    return questions[:count]
