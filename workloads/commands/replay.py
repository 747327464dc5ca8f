"""`s2l replay`: replays a trace, in real time or simulated, and measures what its users see."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.text import Text

from s2l_jax.core.config import PREEMPTION_MODES
from serving.config import ServeConfig
from workloads.replay.schedule import MODES, Mode
from workloads.replay.simulation_config import (
    DEFAULT_KV_SHARE,
    DEFAULT_MAX_BATCH,
    DEFAULT_POLICY,
    DEFAULT_TOKEN_BUDGET,
    SimulationConfig,
)

if TYPE_CHECKING:
    from workloads.replay.job import ReplayConfig
    from workloads.trace import Trace

_EXIT_INTERRUPTED = 130
_EXIT_FAILED_SESSIONS = 3


@click.command(
    epilog="""\b
Examples:
  s2l serve &
  s2l replay out/demo/crawl.jsonl --target grpc://127.0.0.1:9000 --mode stream --qps 0.2 --out out/stream
  s2l replay out/demo/crawl.jsonl --target grpc://127.0.0.1:9000 --mode wait --qps 0.2 --out out/wait
  s2l compare out/stream out/wait --out out/compare
  s2l replay crawl.jsonl --target simulate:h200-tp2-llama3.1-8b --qps 4 --out out/simulated"""
)
@click.argument("trace", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--target",
    required=True,
    metavar="grpc://HOST:PORT|engine|simulate:PROFILE",
    help="A server, an engine in here, or a profile's hardware, simulated (s2l profile list; a file works too).",
)
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default="stream",
    show_default=True,
    help="Send each piece of context when it arrives, or everything once the context is complete (the baseline).",
)
@click.option("--qps", type=float, help="Poisson arrivals per second. [default: as recorded]")
@click.option("--seed", type=int, default=0, show_default=True, help="For arrivals and made-up tokens.")
@click.option("--policy", default="", help="Scheduling policy of the engine; for a server, what the summary says.")
@click.option("--model", default="smollm2-135m", show_default=True, help="Model of the engine; a server has its own.")
@click.option("--kv-blocks", type=int, help="KV blocks in the pool.  [default: a share of the memory]")
@click.option(
    "--kv-share",
    type=click.FloatRange(0.0, 1.0, min_open=True),
    default=DEFAULT_KV_SHARE,
    show_default=True,
    help="Simulated: share of the device memory that the weights leave which is KV.",
)
@click.option("--generate", metavar="PROFILE", help="Simulated: a second engine, which generates; the first prefills.")
@click.option(
    "--token-budget",
    type=click.IntRange(min=1),
    default=DEFAULT_TOKEN_BUDGET,
    show_default=True,
    help="Simulated: tokens of a step.",
)
@click.option(
    "--max-batch",
    type=click.IntRange(min=1),
    default=DEFAULT_MAX_BATCH,
    show_default=True,
    help="Simulated: sessions of a step.",
)
@click.option("--max-model-len", type=int, help="The engine's, as s2l serve has it.  [default: the model's limit]")
@click.option(
    "--host-kv-gib", type=float, help="GiB of host memory for the engine's KV, 0 for none.  [default: a share]"
)
@click.option(
    "--preemption", type=click.Choice(PREEMPTION_MODES), default="auto", show_default=True, help="The engine's."
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many sessions.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for the results.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON, and nothing else, on stdout.")
def replay(
    trace: Path,
    target: str,
    mode: Mode,
    qps: float | None,
    seed: int,
    policy: str,
    model: str,
    kv_blocks: int | None,
    kv_share: float,
    generate: str | None,
    token_budget: int,
    max_batch: int,
    max_model_len: int | None,
    host_kv_gib: float | None,
    preemption: str,
    limit: int | None,
    out: Path,
    as_json: bool,
) -> None:
    """Replay a trace in real time against a server, or simulated, which takes seconds.

    Writes summary.json, sessions.parquet, events.parquet, timeline.json (for ui.perfetto.dev), ttft.png and report.html
    into the --out folder. A slow server does not slow arrivals down. Ctrl-C stops early and keeps what was measured.
    Exits with 3 if sessions failed.

    A simulation runs the real scheduler against a latency profile, and writes steps.parquet as well.
    """
    from workloads.replay.job import ReplayConfig, run_job
    from workloads.replay.progress import ReplayProgress
    from workloads.replay.simulate_job import SIMULATE
    from workloads.replay.targets import make_target
    from workloads.trace import read_trace

    console = Console(stderr=as_json)
    loaded = read_trace(trace)
    config = ReplayConfig(mode, qps, seed, policy, limit)
    if target.startswith(SIMULATE):
        simulation = SimulationConfig(
            policy=policy or DEFAULT_POLICY,
            preemption=preemption,
            kv_share=kv_share,
            kv_blocks=kv_blocks,
            host_bytes=None if host_kv_gib is None else int(host_kv_gib * 2**30),
            token_budget=token_budget,
            max_batch=max_batch,
            max_model_len=max_model_len,
        )
        _finish(
            _simulate(loaded, target.removeprefix(SIMULATE), simulation, config, out, console, generate),
            out,
            console,
            as_json=as_json,
        )
        return
    engine = ServeConfig(
        model=model, kv_blocks=kv_blocks, max_model_len=max_model_len, host_kv_gib=host_kv_gib, preemption=preemption
    )
    if policy:
        engine = replace(engine, policy=policy)

    async def run() -> dict[str, Any]:
        async with make_target(target, engine, _tell(console)) as entered:
            return await run_job(loaded, entered, config, out, ReplayProgress(console, mode))

    _finish(asyncio.run(run()), out, console, as_json=as_json)


def _simulate(
    trace: "Trace",
    name: str,
    simulation: SimulationConfig,
    config: "ReplayConfig",
    out: Path,
    console: Console,
    generate: str | None,
) -> dict[str, Any]:
    from cost_profiles.catalog import find_profile
    from workloads.replay.progress import SimulationProgress
    from workloads.replay.simulate_job import run_simulation

    progress = SimulationProgress(console, config.mode)
    second = None if generate is None else find_profile(generate)
    return run_simulation(trace, find_profile(name), simulation, config, out, progress, second)


def _finish(summary: dict[str, Any], out: Path, console: Console, *, as_json: bool) -> None:
    """Writes the report, prints the figures, and ends with the exit code they deserve."""
    _report(out, console)
    if as_json:
        click.echo(json.dumps(summary, indent=2))
    if summary["interrupted"]:
        raise SystemExit(_EXIT_INTERRUPTED)
    if summary["failed"]:
        raise SystemExit(_EXIT_FAILED_SESSIONS)


def _tell(console: Console) -> Callable[[str, int, int, str], None]:
    """Says when loading and compiling begin and end."""

    def tell(stage: str, done: int, total: int, detail: str) -> None:
        if done == 0:
            console.print(f"{stage} {detail}".rstrip(), highlight=False)
        elif done == total:
            console.print(f"{stage} done ({total})", highlight=False)

    return tell


def _report(out: Path, console: Console) -> None:
    from workloads.report.page import write_report
    from workloads.report.plots import save_png, ttft_figure
    from workloads.report.run import failures, load_runs
    from workloads.report.table import rich_table

    runs = load_runs([out])
    write_report(out / "report.html", runs, f"Replay of {runs[0].summary['trace']}")
    save_png(ttft_figure(runs), out / "ttft.png")
    console.print(rich_table(runs))
    for reason in failures(runs[0]):
        console.print(Text(f"failed for {reason}", style="red"))
    console.print(f"Results: {out}/report.html", highlight=False)
