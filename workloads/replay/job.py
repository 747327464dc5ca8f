"""A whole replay: plan, run, measure, write the run's folder."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workloads.replay.progress import ReplayProgress
from workloads.replay.rows import write_rows
from workloads.replay.runner import run_replay
from workloads.replay.schedule import Mode, plan_sessions
from workloads.replay.summary import RunInfo, summarise, write_summary
from workloads.replay.target import Target
from workloads.replay.timeline import write_timeline
from workloads.trace import Trace


@dataclass(frozen=True, slots=True)
class ReplayConfig:
    """How a trace is replayed.

    Attributes:
      mode: `stream` sends each event when it happens, `wait` one plain request when the context is complete.
      qps: Poisson arrivals per second; None replays them as recorded.
      seed: of arrivals and made-up tokens.
      policy: what the summary says if the target does not tell its policy.
      limit: sessions at most, from the trace's beginning; None is all.
    """

    mode: Mode = "stream"
    qps: float | None = None
    seed: int = 0
    policy: str = ""
    limit: int | None = None


async def run_job(
    trace: Trace,
    target: Target,
    config: ReplayConfig,
    folder: Path,
    progress: ReplayProgress,
    extra: Callable[[float], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Replays a trace against an entered target and writes tables and summary; ctrl-C ends it early, cleanly.

    Args:
      trace: what to replay.
      target: where to.
      config: how.
      folder: gets `summary.json`, `sessions.parquet`, `events.parquet`, `timeline.json`.
      progress: shows how far it is.
      extra: called with the wall time in seconds when all is done; gives more to keep in the summary.

    Returns:
      The summary.
    """
    info = await target.info()
    sessions = trace.sessions[: config.limit]
    planned = plan_sessions(sessions, config.mode, config.qps, config.seed, info.vocab_size)
    before = await target.counters()
    stop = asyncio.Event()
    with _stop_on_interrupt(stop), progress.of(planned):
        measured = await run_replay(planned, target, stop, progress.on_event)
    after = await target.counters()
    run_info = RunInfo(
        mode=config.mode,
        qps=config.qps,
        target=target.name,
        policy=info.policy or config.policy,
        model=info.model,
        seed=config.seed,
        trace=trace.header.name,
        trace_sha256=trace.sha256,
        source=trace.header.source,
        made_up=trace.header.made_up,
        server_version=info.version,
    )
    summary = summarise(measured, run_info, before, after, extra(measured.wall_s) if extra else None)
    write_rows(folder, measured.sessions, measured.events)
    write_timeline(folder, measured.sessions, [])
    write_summary(folder, summary)
    return summary


@contextmanager
def _stop_on_interrupt(stop: asyncio.Event) -> Iterator[None]:
    """The first ctrl-C sets `stop`; a second one interrupts as usual."""
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    try:
        loop.add_signal_handler(signal.SIGINT, interrupt)
    except (NotImplementedError, RuntimeError, ValueError):  # no signals here: not the main thread, or Windows
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
