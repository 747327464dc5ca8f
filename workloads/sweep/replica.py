"""Simulates one replica of a cell."""

import functools
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cost_profiles.catalog import find_profile
from s2l_jax.core.errors import InvalidArgument
from workloads.generate.anns import AnnsConfig, anns_trace
from workloads.generate.crawler import CrawlerConfig, crawler_trace
from workloads.replay.schedule import PlannedSession, plan_sessions
from workloads.replay.simulation import Server, Simulated, simulate
from workloads.replay.simulation_config import SimulationConfig, make_server
from workloads.sweep.cell import GENERATED, Cell
from workloads.trace import Session, read_trace

_VOCAB_SIZE = 8192
_TOKENS = ("prompt", "computed", "reused", "invalidated", "restored", "recomputed")


@dataclass(frozen=True, slots=True)
class ReplicaResult:
    """What one replica gave.

    Attributes:
      ttft_final_s: of each session that got a first token, in order of arrival.
      ttft_open_s: likewise.
      tpot_s: of each session with more than one token.
      failed: sessions that did not complete.
      tokens: sums over sessions, by kind.
      preemptions: counts by kind.
      steps: of the engine.
      kv_blocks: of the pool; with two engines, of the one that prefills.
      kv_peak_blocks: held at most.
      busy_s: virtual seconds in which a step ran; with two engines, their mean.
      wall_s: virtual seconds until the last session was done.
      took_s: real seconds.
    """

    ttft_final_s: list[float]
    ttft_open_s: list[float]
    tpot_s: list[float]
    failed: int
    tokens: dict[str, int]
    preemptions: dict[str, int]
    steps: int
    kv_blocks: int
    kv_peak_blocks: int
    busy_s: float
    wall_s: float
    took_s: float


def run_replica(cell: Cell, replica: int) -> ReplicaResult:
    """Simulates replica number `replica`, from 0, of a cell.

    Arrivals of one replica are a Poisson process of its share of the rate, as if the load were dealt out at random.

    Raises:
      InvalidArgument: profile, trace and limits do not go together.
    """
    began_s = time.perf_counter()
    profile = find_profile(cell.profile)
    planned = _planned(cell, replica)
    config = SimulationConfig(
        policy=cell.policy,
        preemption=cell.preemption,
        kv_share=cell.kv_share,
        host_bytes=None if cell.host_gib is None else int(cell.host_gib * 2**30),
        token_budget=cell.token_budget,
        max_batch=cell.max_batch,
    )
    server = make_server(config, profile, len(planned), find_profile(cell.generate) if cell.generate else None)
    simulated = simulate(planned, server)
    return _result(simulated, server, time.perf_counter() - began_s)


def _planned(cell: Cell, replica: int) -> list[PlannedSession]:
    count = cell.sessions // cell.replicas + (replica < cell.sessions % cell.replicas)
    seed = cell.seed + 1000 * replica
    qps = cell.qps / cell.replicas
    sessions = _sessions(cell.workload, count, qps, seed, cell.delay, cell.token_scale, cell.max_tokens)
    from_file = cell.workload not in GENERATED
    return plan_sessions(sessions, cell.mode, qps if from_file else None, seed, _VOCAB_SIZE)


@functools.lru_cache(2)
def _sessions(
    workload: str, count: int, qps: float, seed: int, delay: float, token_scale: float, max_tokens: int
) -> tuple[Session, ...]:
    """Cells that differ in how they are served have the same load, so it is kept."""
    shape: dict[str, Any] = {
        "sessions": count,
        "qps": qps,
        "seed": seed,
        "time_scale": delay,
        "token_scale": token_scale,
    }
    if workload == "crawler":
        return crawler_trace(CrawlerConfig(**shape, max_tokens=max_tokens)).sessions
    if workload == "anns":
        return anns_trace(AnnsConfig(**shape, max_tokens=max_tokens)).sessions
    if delay != 1 or token_scale != 1:
        raise InvalidArgument(f"delay and token_scale are for made-up workloads, but {workload} is a trace")
    return read_trace(Path(workload)).sessions[:count]


def _result(simulated: Simulated, server: Server, took_s: float) -> ReplicaResult:
    rows = simulated.measured.sessions
    steps = next(iter(simulated.steps.values()))
    return ReplicaResult(
        ttft_final_s=_known(row.ttft_final_s for row in rows),
        ttft_open_s=_known(row.ttft_open_s for row in rows),
        tpot_s=_known(row.tpot_s for row in rows),
        failed=sum(not row.completed for row in rows),
        tokens={kind: sum(getattr(row, f"{kind}_tokens") for row in rows) for kind in _TOKENS},
        preemptions=simulated.counters.preemptions,
        steps=simulated.counters.steps,
        kv_blocks=server.scheduler.config.num_blocks,
        kv_peak_blocks=max((step.held_blocks for step in steps), default=0),
        busy_s=simulated.busy_s / len(simulated.steps),
        wall_s=simulated.measured.wall_s,
        took_s=took_s,
    )


def _known(values_s: Iterable[float | None]) -> list[float]:
    """The values that are there, to the microsecond."""
    return [round(value_s, 6) for value_s in values_s if value_s is not None]
