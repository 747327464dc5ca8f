"""`s2l sweep`: simulates a grid of loads and ways of serving on all cores."""

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from s2l_jax.core.config import PREEMPTION_MODES
from s2l_jax.core.errors import InvalidArgument


@click.command(
    epilog="""\b
Examples:
  s2l sweep --qps 1 --qps 4 --policy s2l --policy default_vllm --mode stream --mode wait --out out/sweep
  s2l sweep docs/study/study.toml --out out/study
  s2l sweep --sessions 100000 --qps 256 --replicas 56 --replicas 64 --replicas 80 --out out/scale"""
)
@click.argument("grids", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--profile", multiple=True, help="Name or file.  [default: h200-tp2-llama3.1-8b]")
@click.option("--generate", multiple=True, help="Profile of a second engine, which generates.  [default: none]")
@click.option("--workload", multiple=True, help="crawler, anns, or the path of a trace.  [default: crawler]")
@click.option("--sessions", multiple=True, type=int, help="Of all replicas together.  [default: 1000]")
@click.option("--qps", multiple=True, type=float, help="Of all replicas together.  [default: 1]")
@click.option("--delay", multiple=True, type=float, help="Multiplies the retrieval's times.  [default: 1]")
@click.option("--token-scale", multiple=True, type=float, help="Multiplies token counts.  [default: 1]")
@click.option("--max-tokens", multiple=True, type=int, help="Output tokens of a session.  [default: 1]")
@click.option("--mode", multiple=True, help="stream or wait.  [default: stream]")
@click.option("--policy", multiple=True, help="Scheduling policy.  [default: s2l]")
@click.option("--preemption", multiple=True, type=click.Choice(PREEMPTION_MODES), help="[default: auto]")
@click.option("--kv-share", multiple=True, type=float, help="KV's share of memory.  [default: 0.8]")
@click.option("--host-gib", multiple=True, type=float, help="GiB of host memory for KV.  [default: the profile's]")
@click.option("--token-budget", multiple=True, type=int, help="Tokens of a step.  [default: 2048]")
@click.option("--replicas", multiple=True, type=int, help="Servers that share the load.  [default: 1]")
@click.option("--seed", multiple=True, type=int, help="Of everything random.  [default: 0]")
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: all cores]")
@click.option("--fresh", is_flag=True, help="Simulate everything anew; without it, what is done in --out is kept.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for the results.")
def sweep(grids: Path | None, workers: int | None, fresh: bool, out: Path, **values: tuple[Any, ...]) -> None:
    """Simulate every combination of some loads and ways of serving, on all cores.

    Any option but --out, --workers and --fresh may be given several times. GRIDS is a TOML file of [[grid]] tables;
    their keys are these options (with _ for -), each a value or a list. Writes results.json, report.html and a picture
    for each grid. Interrupted, it goes on where it stopped.
    """
    from workloads.sweep.grid import cells_of, read_grids
    from workloads.sweep.report import write_sweep_report
    from workloads.sweep.runner import forget, run_sweep

    given = {name: list(value) for name, value in values.items() if value}
    if grids is not None and given:
        raise InvalidArgument(f"--{min(given).replace('_', '-')} and {grids} are both given; put it into the file")
    cells = cells_of(given) if grids is None else read_grids(grids)
    if fresh:
        forget(out)
    console = Console()
    total = sum(cell.replicas for cell in cells)
    columns = (TextColumn("sweep"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("sweep", total=total)
        results = run_sweep(cells, out, workers, lambda done: progress.update(task, completed=done))
    write_sweep_report(out, results, f"Sweep of {len(cells)} cells")
    failed = sum(result.failed for result in results)
    console.print(f"{len(cells)} cells, {failed} sessions failed. Report: {out}/report.html", highlight=False)
