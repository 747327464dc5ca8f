"""What it costs to watch a server, in processor time: per token, per step, and per scrape with many sessions open.

Run `python benchmarks/observing.py`; it takes some seconds and no model.
"""

import time
from collections.abc import Callable

import numpy as np

from s2l_jax.core.ids import SessionId, SlotId
from s2l_jax.core.outcome import Ack, SchedulerStats
from s2l_jax.core.plan import Chunk, StepPlan, StepResult
from s2l_jax.orchestrator.counters import Counters, OrchestratorStats
from s2l_jax.orchestrator.events import TokenEvent
from s2l_jax.orchestrator.observer import Opening, WatchedSession, quiet
from serving.metrics.exposition import Exposition
from serving.metrics.meters import Meters
from serving.metrics.readings import ServerFacts
from serving.watch.book import Book

_SESSIONS = 2000
_BATCH = 32
_REPEATS = 5


def _best_us(call: Callable[[], None], times: int) -> float:
    """Microseconds of processor time of one call, the best of some runs."""
    best = float("inf")
    for _ in range(_REPEATS):
        start_s = time.thread_time()
        for _ in range(times):
            call()
        best = min(best, time.thread_time() - start_s)
    return best / times * 1e6


def main() -> None:
    """Prints the table."""
    book = Book(Meters())
    watches = []
    for index in range(_SESSIONS):
        name = SessionId(f"session-{index}")
        watch = WatchedSession(book.opening(Opening(name, "", 64, True, time.monotonic())), time.monotonic)
        watch.changed("open", Ack(name, 1, 1000, 0, 0), final=True, now_s=time.monotonic())
        watches.append(watch)
    event = TokenEvent((65,), "A")
    sink = watches[0].around(lambda event: None)
    sink(event)
    bare = lambda event: None  # noqa: E731 - what an unwatched session's sink costs
    per_token_us = _best_us(lambda: sink(event), 20_000) - _best_us(lambda: bare(event), 20_000)
    table = np.zeros(1, np.int32)
    chunks = tuple(
        Chunk(SessionId(f"session-{index}"), SlotId(index), 1000, np.zeros(1, np.int32), table)
        for index in range(_BATCH)
    )
    plan = StepPlan(1, chunks, ())
    submitted, collected = quiet(book.submitted), quiet(book.collected)

    def step() -> None:
        submitted(plan, time.monotonic(), 0)
        collected(StepResult(plan, ()), time.monotonic(), 0)

    stats = OrchestratorStats(Counters(), _SESSIONS, 0, SchedulerStats({}, 1, 1, 1, 3, 1))
    exposition = Exposition(book, lambda: stats, ServerFacts("model"), vllm=True)
    print(f"per token:                     {per_token_us:8.1f} us")
    print(f"per step of {_BATCH} sessions:       {_best_us(step, 500):8.1f} us")
    print(f"per scrape, {_SESSIONS} sessions open: {_best_us(lambda: _drop(exposition.encode('')), 10):8.0f} us")


def _drop(result: object) -> None:
    del result


if __name__ == "__main__":
    main()
