"""Sessions and memory over the last minutes, in samples."""

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from s2l_jax.orchestrator.counters import OrchestratorStats
from serving.watch.book import Book
from serving.watch.record import Phase

MOST_SAMPLES = 600
INTERVAL_S = 1.0
_log = logging.getLogger(__name__)


class Moment(NamedTuple):
    """One sample.

    Attributes:
      at_s: when it was taken, on the orchestrator's clock.
      arriving: sessions in this phase; so are `prefilling`, `waiting` and `decoding`.
      held: device blocks that sessions hold.
      cached: device blocks that nobody holds, whose content can be used again.
      swapped: host blocks with the last copy of something.
      backups: other host blocks with content.
      output_tokens: tokens sampled since the start.
    """

    at_s: float
    arriving: int
    prefilling: int
    waiting: int
    decoding: int
    held: int
    cached: int
    swapped: int
    backups: int
    output_tokens: int


class History:
    """The last `MOST_SAMPLES` samples. Any thread may read.

    Args:
      book: knows what sessions do.
      stats: takes a snapshot of the orchestrator.
      clock: of the orchestrator.
    """

    def __init__(self, book: Book, stats: Callable[[], OrchestratorStats], clock: Callable[[], float]) -> None:
        self._book = book
        self._stats = stats
        self._clock = clock
        self._moments: deque[Moment] = deque(maxlen=MOST_SAMPLES)

    def sample(self) -> None:
        """Takes one sample."""
        stats, phases = self._stats(), self._book.counts().phases
        scheduler, host = stats.scheduler, stats.scheduler.host
        moment = Moment(
            round(self._clock(), 3),
            phases[Phase.ARRIVING],
            phases[Phase.PREFILLING],
            phases[Phase.WAITING],
            phases[Phase.DECODING],
            scheduler.held_blocks,
            scheduler.cached_blocks,
            host.swapped,
            host.backups,
            stats.counters.tokens_output,
        )
        self._moments.append(moment)

    def since(self, at_s: float) -> list[Moment]:
        """Samples after this time, oldest first."""
        return [moment for moment in self._moments.copy() if moment.at_s > at_s]

    @contextlib.contextmanager
    def sampling(self) -> Iterator[None]:
        """Takes a sample a second, in a thread, while the block runs."""
        is_over = threading.Event()

        def main() -> None:
            while not is_over.wait(INTERVAL_S):
                try:
                    self.sample()
                except Exception:  # noqa: BLE001 - it is logged, and sessions do not need samples
                    _log.exception(
                        "no sample could be taken, and none will be: the live page has no history from here on"
                    )
                    return

        thread = threading.Thread(target=main, name="s2l-history", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
