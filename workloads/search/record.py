"""Searches for many questions and writes what their result lists looked like when, with all text, as a trace."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from s2l_jax.core.errors import InvalidArgument
from workloads.generate.arrivals import ArrivalProcess
from workloads.generate.content import common_prefix
from workloads.generate.writing import write_sessions
from workloads.prompt import Prompt
from workloads.search.embeddings import Encoder, embedded
from workloads.search.pacing import Pacing
from workloads.search.refinement import ProgressiveIndex
from workloads.search.wikipedia import Passage
from workloads.trace import Event, Header, Session


@dataclass(frozen=True, slots=True)
class SearchConfig:
    """How questions are asked and searched for.

    Attributes:
      results: length of a result list.
      cells: of the index.
      qps: questions per second.
      arrivals: how they arrive.
      seed: of the index, the arrivals and the pacing.
      pacing: how long a search takes.
      max_tokens: output tokens asked of the model.
    """

    results: int = 10
    cells: int = 128
    qps: float = 1.0
    arrivals: ArrivalProcess = field(default_factory=ArrivalProcess)
    seed: int = 0
    pacing: Pacing = field(default_factory=Pacing)
    max_tokens: int = 40

    def __post_init__(self) -> None:
        for name in ("results", "cells", "max_tokens"):
            if getattr(self, name) < 1:
                raise InvalidArgument(f"{name} is {getattr(self, name)!r}, but must be at least 1")


@dataclass(frozen=True, slots=True)
class SearchReport:
    """What was found.

    Attributes:
      probes: cells looked into, after each slice.
      recall: share of the exact results found by then.
      changed: entries of a list that are new in the slice; the first slice brings the whole list.
      updates: result lists that were sent, of all questions.
      questions: number of questions.
    """

    probes: tuple[int, ...]
    recall: tuple[float, ...]
    changed: tuple[float, ...]
    updates: int
    questions: int


def record_search(
    path: Path,
    passages: Sequence[Passage],
    questions: Sequence[str],
    source: str,
    encoder: Encoder,
    cache: Path,
    config: SearchConfig,
    prompt: Prompt,
    tell: Callable[[int, int], None] | None = None,
) -> SearchReport:
    """Embeds, indexes and searches, and writes the trace.

    Args:
      path: the trace to write.
      passages: what is searched.
      questions: one session each.
      source: what passages and questions are and under which licence they come; goes into the trace's header.
      encoder: turns text into vectors.
      cache: folder that keeps the passages' vectors.
      config: how to search.
      prompt: what stands around the passages.
      tell: told how many of how many texts are embedded.

    Raises:
      FailedPrecondition: faiss is not installed.
      InvalidArgument: there is no question, or there are fewer passages than cells.
    """
    if not questions:
        raise InvalidArgument("there is no question to search for")
    vectors = embedded([f"{passage.title}: {passage.text}" for passage in passages], encoder, cache, tell)
    index = ProgressiveIndex(vectors, config.cells, config.seed)
    queries = encoder.embed(questions)
    refinement = index.refine(queries, config.results)
    sessions = list(_sessions(passages, questions, refinement.probes, refinement.lists, config, prompt))
    made_up = "when questions arrive and how long searches take; result lists are those of real searches"
    details = {"made_up": made_up, "encoder": encoder.name, **asdict(config)}
    write_sessions(path, Header("vector-search", source, details), sessions)
    return SearchReport(
        refinement.probes,
        tuple(refinement.recall(index.exact(queries, config.results))),
        (float(config.results), *refinement.changed()),
        sum(event.op == "update" for session in sessions for event in session.events),
        len(questions),
    )


def _sessions(
    passages: Sequence[Passage],
    questions: Sequence[str],
    probes: Sequence[int],
    lists: np.ndarray,
    config: SearchConfig,
    prompt: Prompt,
) -> Iterator[Session]:
    """A session a question; `lists` as in `Refinement`."""
    rng = np.random.default_rng([config.seed, 3])
    arrivals_s = config.arrivals(rng, len(questions), config.qps)
    for number, (question, arrival_s) in enumerate(zip(questions, arrivals_s.tolist(), strict=True), start=1):
        times_s = [arrival_s + wait_s for wait_s in config.pacing.times_s(rng, probes)]
        texts = [
            "".join(prompt.page(passages[place].title, "", passages[place].text) for place in found if place >= 0)
            for found in lists[:, number - 1].tolist()
        ]
        yield search_session(f"q{number:04d}", question, arrival_s, times_s, texts, prompt, config.max_tokens)


def search_session(
    name: str,
    question: str,
    arrival_s: float,
    times_s: Sequence[float],
    results: Sequence[str],
    prompt: Prompt,
    max_tokens: int,
) -> Session:
    """A session whose results are replaced whenever they change, and which is complete when the search is.

    The question stands behind the results from the first list on, since nobody knows which will be the last.

    Args:
      name: id of the session.
      question: in plain words.
      arrival_s: when it is asked.
      times_s: when each slice of the search is done.
      results: text of the result list after each slice.
      prompt: what stands around it.
      max_tokens: output tokens asked of the model.
    """
    events = [Event(arrival_s, name, "open", text=prompt.head, max_tokens=max_tokens, note=question)]
    shown = prompt.head
    for at_s, text in zip(times_s, results, strict=True):
        context = prompt.head + text + prompt.tail(question)
        if context != shown:
            keep = common_prefix(shown, context)
            events.append(Event(at_s, name, "update", text=context[keep:], keep_chars=keep))
            shown = context
    return Session(name, (*events, Event(times_s[-1], name, "finish")))
