"""Which policy answers soonest? Simulates loads on a virtual clock, with the real scheduler and a cost model.

    python benchmarks/policies.py
    python benchmarks/policies.py --machine h200 --workload crawler --qps 4 --policy s2l --preemption swap
    python benchmarks/policies.py --machine cpu --set partial_step_s=0.05 --json out/policies.json

Each table is one load: the same sessions and arrivals, streamed (each chunk is sent when it arrives) and waiting (one
request when all is there). Ratios are to waiting under `default_vllm`: above 1 is sooner. A streaming row that loses to
it at P50, P95 or P99 is red. Sessions are made up from the published statistics of Stream2LLM's workloads.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from cost_profiles.catalog import find_profile
from s2l_jax.core.config import PREEMPTION_MODES, SchedulerConfig
from s2l_jax.core.costs import PhysicalCosts
from s2l_jax.core.policy import POLICIES
from s2l_jax.core.scheduler import Scheduler
from workloads.generate.anns import AnnsConfig, anns_trace
from workloads.generate.crawler import CrawlerConfig, crawler_trace
from workloads.replay.schedule import MODES, Mode, PlannedSession, peak_context_tokens, plan_sessions
from workloads.replay.simulation import Server, simulate
from workloads.replay.summary import distribution

POOLS = {"ample": 1.5, "quarter": 0.25}
PERCENTILES = ("p50", "p95", "p99", "mean")
TOKENS = ("prompt", "computed", "recomputed", "restored", "reused", "invalidated")
BASELINE = "default_vllm"
VOCAB = 8192


@dataclass(frozen=True)
class Machine:
    """What is simulated, and what load fits it.

    Attributes:
      costs: what it is fast at.
      token_budget: tokens of a step.
      max_batch: sessions of a step.
      token_scale: of the workloads' token counts.
      time_scale: of their times: a slow machine needs slow streams, else few are open at once.
      max_prompt_tokens: longer prompts are cut.
      max_tokens: output tokens of a session.
      qps: loads that are worth a look, by workload.
    """

    costs: PhysicalCosts
    token_budget: int
    max_batch: int
    token_scale: float
    time_scale: float
    max_prompt_tokens: int
    max_tokens: int
    qps: dict[str, tuple[float, ...]]


H200_8B = find_profile("h200-tp2-llama3.1-8b").costs
MACHINES = {
    "cpu": Machine(PhysicalCosts(), 512, 32, 1 / 16, 4.0, 2048, 16, {"crawler": (0.5, 0.8), "anns": (0.3, 0.5)}),
    "h200": Machine(H200_8B, 2048, 256, 1.0, 1.0, 40_000, 1, {"crawler": (1.0, 4.0), "anns": (1.0, 2.0)}),
}
TRACES = {
    "crawler": lambda **options: crawler_trace(CrawlerConfig(**options)),
    "anns": lambda **options: anns_trace(AnnsConfig(**options)),
}


@dataclass(frozen=True)
class Load:
    """Sessions on a machine with a pool, laid out for both modes.

    Attributes:
      pool_blocks: of the device.
      pool_share: of what the load wants.
    """

    machine: str
    workload: str
    qps: float
    pool: str
    pool_blocks: int
    pool_share: float
    planned: dict[Mode, list[PlannedSession]]


@dataclass(frozen=True)
class Cell:
    """One simulated run. `tokens` are sums over all sessions; `busy` is the share of time in which a step ran."""

    machine: str
    workload: str
    qps: float
    pool: str
    mode: str
    policy: str
    preemption: str
    ttft_final_s: dict[str, float | None]
    ttft_open_s: dict[str, float | None]
    ratio: dict[str, float]
    preemptions: dict[str, int]
    tokens: dict[str, int]
    failed: int
    steps: int
    busy: float
    simulated_s: float
    took_s: float


def loads(
    machines: Sequence[str],
    workloads: Sequence[str],
    pools: Sequence[str],
    qps: Sequence[float],
    sessions: int,
    seed: int,
) -> Iterator[Load]:
    for name in machines:
        machine = MACHINES[name]
        for workload in workloads:
            for rate in qps or machine.qps[workload]:
                trace = TRACES[workload](
                    sessions=sessions,
                    qps=rate,
                    seed=seed,
                    token_scale=machine.token_scale,
                    time_scale=machine.time_scale,
                    max_prompt_tokens=machine.max_prompt_tokens,
                    max_tokens=machine.max_tokens,
                )
                planned = {mode: plan_sessions(trace.sessions, mode, None, seed, VOCAB) for mode in MODES}
                peak_tokens = peak_context_tokens(planned["stream"])
                for pool in pools:
                    longest = machine.max_prompt_tokens + machine.max_tokens
                    pool_tokens = max(int(peak_tokens * POOLS[pool]), longest + 16)
                    yield Load(name, workload, rate, pool, pool_tokens // 16, pool_tokens / peak_tokens, planned)


def run(load: Load, mode: Mode, policy: str, preemption: str, host: float, extra: dict[str, Any]) -> Cell:
    machine = MACHINES[load.machine]
    config = SchedulerConfig(
        num_blocks=load.pool_blocks,
        token_budget=machine.token_budget,
        max_batch=machine.max_batch,
        max_sessions=len(load.planned[mode]),
        max_model_len=machine.max_prompt_tokens + machine.max_tokens,
        policy=policy,
        host_blocks=int(host * load.pool_blocks),
        preemption=preemption,
    )
    scheduler = Scheduler(replace(config, **extra), machine.costs)
    began_s = time.perf_counter()
    result = simulate(load.planned[mode], Server(scheduler, machine.costs))
    took_s = time.perf_counter() - began_s
    rows = result.measured.sessions
    return Cell(
        machine=load.machine,
        workload=load.workload,
        qps=load.qps,
        pool=load.pool,
        mode=mode,
        policy=policy,
        preemption=preemption,
        ttft_final_s=distribution(row.ttft_final_s for row in rows),
        ttft_open_s=distribution(row.ttft_open_s for row in rows),
        ratio={},
        preemptions=result.counters.preemptions,
        tokens={kind: sum(getattr(row, f"{kind}_tokens") for row in rows) for kind in TOKENS},
        failed=sum(not row.completed for row in rows),
        steps=result.counters.steps,
        busy=result.busy_s / result.measured.wall_s,
        simulated_s=result.measured.wall_s,
        took_s=took_s,
    )


def compare(cell: Cell, baseline: Cell) -> None:
    for name in PERCENTILES:
        mine, theirs = cell.ttft_final_s[name], baseline.ttft_final_s[name]
        cell.ratio[name] = theirs / mine if mine and theirs else float("nan")


def table(load: Load, cells: Sequence[Cell]) -> Table:
    result = Table(
        title=f"{load.machine} {load.workload} QPS {load.qps:g}, pool {load.pool} ({load.pool_share:.2f} of peak)",
        title_justify="left",
    )
    for column in ("mode", "policy", "preemption"):
        result.add_column(column)
    for column in (*PERCENTILES, "open p50", "ratio p50", "p95", "p99", "swap", "rec", "drop"):
        result.add_column(column, justify="right")
    for column in ("computed", "recomp.", "restored", "reused", "busy", "steps", "took s"):
        result.add_column(column, justify="right")
    for cell in cells:
        lost = any(cell.ratio[name] < 1 for name in ("p50", "p95", "p99")) and cell.mode == "stream"
        result.add_row(
            cell.mode,
            cell.policy,
            cell.preemption,
            *(f"{cell.ttft_final_s[name]:.4f}" for name in PERCENTILES),
            f"{cell.ttft_open_s['p50']:.2f}",
            *(f"{cell.ratio[name]:.2f}" for name in ("p50", "p95", "p99")),
            *(str(cell.preemptions.get(name, 0)) for name in ("swap", "recompute", "drop")),
            f"{cell.tokens['computed'] / cell.tokens['prompt']:.3f}",
            *(str(cell.tokens[kind]) for kind in ("recomputed", "restored", "reused")),
            f"{cell.busy:.0%}",
            str(cell.steps),
            f"{cell.took_s:.1f}",
            style="red" if lost or cell.failed else None,
        )
    return result


def parse_extra(pairs: Sequence[str]) -> dict[str, Any]:
    known = {field.name: field for field in fields(SchedulerConfig)}
    extra = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in known or not value:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE with a field of SchedulerConfig")
        extra[name] = json.loads(value)
    return extra


@click.command(help=(__doc__ or "").replace("\n\n    python", "\n\n\b\n    python", 1))
@click.option("--machine", "machines", multiple=True, type=click.Choice(sorted(MACHINES)), help="[default: all]")
@click.option("--workload", "workloads", multiple=True, type=click.Choice(sorted(TRACES)), help="[default: all]")
@click.option("--policy", "policies", multiple=True, type=click.Choice(sorted(POLICIES)), help="[default: all]")
@click.option("--mode", "modes", multiple=True, type=click.Choice(MODES), help="[default: all]")
@click.option(
    "--preemption",
    "preemptions",
    multiple=True,
    type=click.Choice(PREEMPTION_MODES),
    default=("auto",),
    show_default=True,
)
@click.option("--pool", "pools", multiple=True, type=click.Choice(sorted(POOLS)), help="[default: all]")
@click.option("--qps", multiple=True, type=float, help="[default: two per machine and workload]")
@click.option("--sessions", default=300, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--host", default=1.0, show_default=True, help="Host pool as a multiple of the device pool.")
@click.option("--set", "extra", multiple=True, metavar="NAME=VALUE", help="A field of SchedulerConfig.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def main(
    machines: tuple[str, ...],
    workloads: tuple[str, ...],
    policies: tuple[str, ...],
    modes: tuple[Mode, ...],
    preemptions: tuple[str, ...],
    pools: tuple[str, ...],
    qps: tuple[float, ...],
    sessions: int,
    seed: int,
    host: float,
    extra: tuple[str, ...],
    json_file: Path | None,
) -> None:
    """Prints a table per load."""
    console = Console(width=200)
    policies = policies or tuple(POLICIES)
    baseline = BASELINE if BASELINE in POLICIES else policies[0]
    options = parse_extra(extra)
    everything: list[Cell] = []
    for load in loads(
        machines or tuple(MACHINES), workloads or tuple(TRACES), pools or tuple(POOLS), qps, sessions, seed
    ):
        waiting = run(load, "wait", baseline, "auto", host, options)
        cells = [waiting]
        for mode in modes or tuple(reversed(MODES)):
            for policy in policies:
                cells += [
                    run(load, mode, policy, preemption, host, options)
                    for preemption in preemptions
                    if (mode, policy, preemption) != ("wait", baseline, "auto")
                ]
        for cell in cells:
            compare(cell, waiting)
        everything += cells
        console.print(table(load, cells))
        if json_file is not None:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps([asdict(cell) for cell in everything], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
