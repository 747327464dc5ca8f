"""Calibrates the profile of Llama-3.1-8B on two H200 to what Stream2LLM published for its crawler workload.

    python benchmarks/calibrate_h200.py                      # the table of residuals, with the stored profile
    python benchmarks/calibrate_h200.py --fit --out h200.json  # fits four terms first, about half an hour on two cores
    python benchmarks/calibrate_h200.py --set step_s=2.1e-3 --set latency_s=0.0127   # looks at terms chosen by hand

Simulated are the artifact's system (policy `default_vllm`, token budget 2048) and sessions made up from the published
statistics. Four terms are free: a step, a token, a pair of attended tokens, and what a request takes beside the device.
Their logarithms are chosen so that the squares of the logarithmic errors at P50, P95 and P99 have the least sum.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize

from cost_profiles.catalog import find_profile, write_profile
from cost_profiles.profile import Part, Profile, Residual
from workloads.generate.crawler import CrawlerConfig, crawler_trace
from workloads.replay.schedule import Mode, plan_sessions
from workloads.replay.simulation import simulate
from workloads.replay.simulation_config import SimulationConfig, make_server
from workloads.replay.summary import distribution

PROFILE = "h200-tp2-llama3.1-8b"
SOURCE = "Stream2LLM (arXiv 2604.16395), published TTFT of the crawler workload on two H200, default scheduler"
# Seconds from the last chunk to the first token, by questions per second and mode.
PUBLISHED: dict[tuple[float, Mode], dict[str, float]] = {
    (1.0, "wait"): {"p50": 0.1313, "p95": 1.0415, "p99": 2.0930},
    (1.0, "stream"): {"p50": 0.0298, "p95": 0.2694, "p99": 0.6713},
    (4.0, "wait"): {"p50": 0.7521, "p95": 4.3418, "p99": 5.4011},
    (4.0, "stream"): {"p50": 0.0722, "p95": 1.9569, "p99": 4.4535},
}
FREE = ("step_s", "token_s", "attended_s")
_BLOCK_TOKENS = 256  # memory is ample here, and large blocks simulate sooner

Job = tuple[Profile, float, Mode, int, int]


def run(job: Job) -> dict[str, float | None]:
    """TTFT of one cell with one seed."""
    profile, qps, mode, sessions, seed = job
    trace = crawler_trace(CrawlerConfig(sessions=sessions, qps=qps, seed=seed))
    planned = plan_sessions(trace.sessions, mode, None, seed, 8192)
    result = simulate(
        planned, make_server(SimulationConfig(policy="default_vllm", host_bytes=0), profile, len(planned))
    )
    return distribution(row.ttft_final_s for row in result.measured.sessions)


def residuals(pool: ProcessPoolExecutor, profile: Profile, sessions: int, seeds: Sequence[int]) -> list[Residual]:
    """Published and simulated figures; of several seeds, the geometric mean."""
    memory = profile.memory
    scale = _BLOCK_TOKENS // memory.block_tokens
    large = replace(memory, block_tokens=_BLOCK_TOKENS, block_bytes=memory.block_bytes * scale)
    jobs = [(replace(profile, memory=large), *cell, sessions, seed) for cell in PUBLISHED for seed in seeds]
    found = list(pool.map(run, jobs))
    rows = []
    for number, ((qps, mode), published) in enumerate(PUBLISHED.items()):
        some = found[number * len(seeds) : (number + 1) * len(seeds)]
        for name, expected_s in published.items():
            predicted_s = math.exp(np.mean([math.log(values[name] or math.nan) for values in some]))
            rows.append(Residual(f"crawler QPS {qps:g} {mode} {name.upper()}", expected_s, predicted_s))
    return rows


def with_terms(profile: Profile, logs: np.ndarray) -> Profile:
    """The profile with free terms and latency at these logarithms."""
    *terms, latency = (float(f"{term:.4g}") for term in np.exp(logs))
    return replace(profile, costs=replace(profile.costs, **dict(zip(FREE, terms, strict=True))), latency_s=latency)


def fit(pool: ProcessPoolExecutor, profile: Profile, sessions: int, seeds: Sequence[int], console: Console) -> Profile:
    """Chooses the free terms by the simplex method, starting from the profile's own."""

    def loss(logs: np.ndarray) -> float:
        rows = residuals(pool, with_terms(profile, logs), sessions, seeds)
        value = sum(math.log1p(row.relative_error) ** 2 for row in rows)
        terms = ", ".join(f"{term:.3g}" for term in np.exp(logs))
        console.print(f"  {terms}: {value:.3f}", highlight=False)
        return value

    start = np.log([*(getattr(profile.costs, name) for name in FREE), profile.latency_s or 5e-3])
    simplex = np.vstack([start, start + np.diag([-0.3, -0.15, -0.3, 0.4])])
    options = {"initial_simplex": simplex, "xatol": 0.03, "fatol": 0.01, "maxfev": 60}
    return with_terms(profile, minimize(loss, start, method="Nelder-Mead", options=options).x)


def calibrated(profile: Profile, rows: Sequence[Residual]) -> Profile:
    """The profile with its residuals, saying that its steps are calibrated."""
    worst = max(abs(row.relative_error) for row in rows)
    part = Part("calibrated", SOURCE, worst_error=worst)
    return replace(profile, parts={**profile.parts, "steps": part}, residuals=tuple(rows))


def table(rows: Sequence[Residual]) -> Table:
    result = Table("what", "published s", "simulated s", "error")
    for row in rows:
        style = "red" if abs(row.relative_error) > 0.25 else None
        result.add_row(
            row.what, f"{row.expected_s:.4f}", f"{row.predicted_s:.4f}", f"{row.relative_error:+.0%}", style=style
        )
    return result


@click.command(help=(__doc__ or "").replace("\n\n    python", "\n\n\b\n    python", 1))
@click.option("--profile", "name", default=PROFILE, show_default=True, help="Where to start from.")
@click.option("--fit", "fits", is_flag=True, help="Choose the free terms; without it, only look.")
@click.option("--set", "chosen", multiple=True, metavar="TERM=S", help="Take this value of a free term instead.")
@click.option("--sessions", default=4322, show_default=True, help="Sessions of each simulation, as published.")
@click.option("--fit-sessions", default=1500, show_default=True, help="While fitting.")
@click.option("--seeds", default=4, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the profile there.")
def main(
    name: str, fits: bool, chosen: tuple[str, ...], sessions: int, fit_sessions: int, seeds: int, out: Path | None
) -> None:
    """Prints the residuals."""
    console = Console()
    profile = find_profile(name)
    if chosen:
        terms = {name: getattr(profile.costs, name) for name in FREE} | {"latency_s": profile.latency_s}
        terms |= {name: float(value) for name, _, value in (pair.partition("=") for pair in chosen)}
        profile = with_terms(profile, np.log([*terms.values()]))
    with ProcessPoolExecutor() as pool:
        if fits:
            profile = fit(pool, profile, fit_sessions, range(seeds), console)
        rows = residuals(pool, profile, sessions, range(seeds))
    console.print(table(rows))
    console.print({name: getattr(profile.costs, name) for name in FREE} | {"latency_s": profile.latency_s})
    if out is not None:
        write_profile(out, calibrated(profile, rows))


if __name__ == "__main__":
    main()
