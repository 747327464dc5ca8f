"""A whole simulated replay: plan, simulate, write the run's folder."""

import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cost_profiles.profile import Profile
from workloads.replay.job import ReplayConfig
from workloads.replay.progress import SimulationProgress
from workloads.replay.rows import write_rows, write_step_rows
from workloads.replay.schedule import plan_sessions
from workloads.replay.simulation import Simulated, simulate
from workloads.replay.simulation_config import SimulationConfig, make_scheduler
from workloads.replay.summary import RunInfo, summarise, write_summary
from workloads.replay.target import TargetCounters
from workloads.replay.timeline import write_timeline
from workloads.trace import Trace

SIMULATE = "simulate:"
_VOCAB_SIZE = 8192  # any will do: nobody reads the tokens


def run_simulation(
    trace: Trace,
    profile: Profile,
    simulation: SimulationConfig,
    config: ReplayConfig,
    folder: Path,
    progress: SimulationProgress,
) -> dict[str, Any]:
    """Simulates a trace and writes tables, timeline and summary.

    Args:
      trace: what to replay; its content is tokens or sizes.
      profile: of the hardware.
      simulation: how the server on it is run.
      config: how the trace is replayed.
      folder: gets `summary.json`, `sessions.parquet`, `events.parquet`, `steps.parquet`, `timeline.json`.
      progress: shows how far it is.

    Returns:
      The summary.
    """
    began_s = time.perf_counter()
    planned = plan_sessions(trace.sessions[: config.limit], config.mode, config.qps, config.seed, _VOCAB_SIZE)
    scheduler = make_scheduler(simulation, profile, len(planned))
    with progress.of(planned):
        simulated = simulate(planned, scheduler, profile.costs, latency_s=profile.latency_s, on_event=progress.on_event)
    took_s = time.perf_counter() - began_s
    info = RunInfo(
        mode=config.mode,
        qps=config.qps,
        target=f"{SIMULATE}{profile.name}",
        policy=simulation.policy,
        model=profile.model,
        seed=config.seed,
        trace=trace.header.name,
        trace_sha256=trace.sha256,
        source=trace.header.source,
        made_up=trace.header.made_up,
        server_version=version("s2l-jax"),
    )
    extra = {"simulation": _describe(profile, simulation, simulated, took_s, scheduler.config.num_blocks)}
    summary = summarise(simulated.measured, info, TargetCounters(), simulated.counters, extra)
    write_rows(folder, simulated.measured.sessions, simulated.measured.events)
    write_step_rows(folder, simulated.steps)
    write_timeline(folder, simulated.measured.sessions, simulated.steps)
    write_summary(folder, summary)
    return summary


def _describe(
    profile: Profile, config: SimulationConfig, simulated: Simulated, took_s: float, num_blocks: int
) -> dict[str, Any]:
    wall_s = simulated.measured.wall_s or 1.0
    return {
        "profile": profile.name,
        "hardware": profile.hardware,
        "provenance": {name: part.provenance for name, part in profile.parts.items()},
        **asdict(config),
        "kv_blocks": num_blocks,
        "kv_peak_blocks": max((step.held_blocks for step in simulated.steps), default=0),
        "busy_share": simulated.busy_s / wall_s,
        "copy_share": simulated.copy_s / wall_s,
        "took_s": took_s,
    }
