"""Everything that watches a server, put together."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from s2l_jax.orchestrator.counters import OrchestratorStats
from s2l_jax.orchestrator.observer import Observer
from serving.dashboard.history import History
from serving.metrics.exposition import Exposition
from serving.metrics.meters import Meters
from serving.metrics.readings import ServerFacts
from serving.watch.book import Book, OnEnd


class Watchable(Protocol):
    """Has sessions: an orchestrator, or a router."""

    def observe(self, observer: Observer) -> None:
        """Tells an observer what happens from now on."""

    def stats(self) -> OrchestratorStats:
        """A snapshot."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What the HTTP server shows of the server.

    Attributes:
      book: the records of sessions.
      exposition: the metrics.
      history: samples for the live page; whoever wants some lets it sample.
      stats: takes a snapshot.
      facts: about the server.
      profile_dir: where profiles go that are asked for; None takes none.
    """

    book: Book
    exposition: Exposition
    history: History
    stats: Callable[[], OrchestratorStats]
    facts: ServerFacts
    profile_dir: Path | None = None


def observe(
    owner: Watchable,
    facts: ServerFacts,
    *,
    on_end: Sequence[OnEnd] = (),
    vllm_metrics: bool = False,
    profile_dir: Path | None = None,
) -> Observation:
    """Begins to watch whoever has sessions.

    Args:
      owner: of the sessions.
      facts: about the server.
      on_end: called with the record of each session that has ended; must be quick.
      vllm_metrics: export metrics under vLLM's names as well.
      profile_dir: where profiles go that are asked for; None takes none.
    """
    book = Book(Meters(), on_end)
    owner.observe(book)
    stats = owner.stats
    return Observation(
        book=book,
        exposition=Exposition(book, stats, facts, vllm=vllm_metrics),
        history=History(book, stats, time.monotonic),
        stats=stats,
        facts=facts,
        profile_dir=profile_dir,
    )
