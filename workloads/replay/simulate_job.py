"""A whole simulated replay: plan, simulate, write the run's folder."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cost_profiles.profile import Profile
from workloads.replay.job import ReplayConfig
from workloads.replay.progress import SimulationProgress
from workloads.replay.rows import write_rows, write_step_rows
from workloads.replay.schedule import plan_sessions
from workloads.replay.simulation import Server, Simulated, simulate
from workloads.replay.simulation_config import SimulationConfig, make_server
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
    generate: Profile | None = None,
) -> dict[str, Any]:
    """Simulates a trace and writes tables, timeline and summary.

    Args:
      trace: what to replay; its content is tokens or sizes.
      profile: of the hardware.
      simulation: how the server on it is run.
      config: how the trace is replayed.
      folder: gets `summary.json`, `sessions.parquet`, `events.parquet`, `steps.parquet`, `timeline.json`.
      progress: shows how far it is.
      generate: of a second engine, which generates; the first one then only prefills.

    Returns:
      The summary.
    """
    began_s = time.perf_counter()
    planned = plan_sessions(trace.sessions[: config.limit], config.mode, config.qps, config.seed, _VOCAB_SIZE)
    server = make_server(simulation, profile, len(planned), generate)
    with progress.of(planned):
        simulated = simulate(planned, server, progress.on_event)
    took_s = time.perf_counter() - began_s
    info = RunInfo(
        mode=config.mode,
        qps=config.qps,
        target=f"{SIMULATE}{profile.name}" + (f"+{generate.name}" if generate else ""),
        policy=simulation.policy,
        model=profile.model,
        seed=config.seed,
        trace=trace.header.name,
        trace_sha256=trace.sha256,
        source=trace.header.source,
        made_up=trace.header.made_up,
        server_version=version("s2l-jax"),
    )
    profiles = [profile] if generate is None else [profile, generate]
    extra = {"simulation": asdict(simulation) | describe_engines(profiles, server, simulated) | {"took_s": took_s}}
    summary = summarise(simulated.measured, info, TargetCounters(), simulated.counters, extra)
    write_rows(folder, simulated.measured.sessions, simulated.measured.events)
    steps = [step for some in simulated.steps.values() for step in some]
    write_step_rows(folder, steps)
    write_timeline(folder, simulated.measured.sessions, steps)
    write_summary(folder, summary)
    return summary


def describe_engines(profiles: Sequence[Profile], server: Server, simulated: Simulated) -> dict[str, Any]:
    """What each engine was and did, for the summary."""
    wall_s = simulated.measured.wall_s or 1.0
    schedulers = (server.scheduler, server.generate)
    engines = {}
    for (name, steps), profile, scheduler in zip(simulated.steps.items(), profiles, schedulers, strict=False):
        assert scheduler is not None
        engines[name] = {
            "profile": profile.name,
            "hardware": profile.hardware,
            "provenance": {part: about.provenance for part, about in profile.parts.items()},
            "kv_blocks": scheduler.config.num_blocks,
            "kv_peak_blocks": max((step.held_blocks for step in steps), default=0),
            "busy_share": sum(step.duration_s for step in steps) / wall_s,
            "copy_share": max(0.0, sum(step.duration_s - step.compute_s for step in steps)) / wall_s,
        }
    return {"engines": engines}
