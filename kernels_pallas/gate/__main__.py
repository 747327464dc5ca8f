"""`python -m kernels_pallas.gate`: numerics, races, and compilation for all targets; see docs/kernels.md."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kernels_pallas.gate import gpu, tpu
from kernels_pallas.gate.markdown import versions, write_tables
from kernels_pallas.gate.row import Row
from kernels_pallas.gate.runner import Job, run_jobs

TARGETS = (*tpu.TARGETS, *gpu.TARGETS)


@click.command()
@click.option(
    "--cases",
    "modules",
    multiple=True,
    default=("kernels_pallas.gate.cases",),
    show_default=True,
    help="Modules whose `cases_of` says what is compiled.",
)
@click.option("--target", "targets", multiple=True, type=click.Choice(TARGETS), help="[default: all]")
@click.option("--match", default="", help="Only cases with this in their names.")
@click.option("--jobs", "workers", default=2, show_default=True, type=click.IntRange(min=1), help="Side by side.")
@click.option("--numerics/--no-numerics", default=True, show_default=True, help="Run the tests of kernels as well.")
@click.option("--out", default=Path("out/kernels"), show_default=True, type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--docs", type=click.Path(dir_okay=False, exists=True, path_type=Path), help="Write tables into this page."
)
def main(
    modules: tuple[str, ...],
    targets: tuple[str, ...],
    match: str,
    workers: int,
    numerics: bool,
    out: Path,
    docs: Path | None,
) -> None:
    """Check all kernels without the devices that they are for.

    The exit code is 1 if a test fails, or if a kernel does not compile, spills registers, or copies the page pool.
    """
    console = Console(stderr=True)
    failed = numerics and _numerics(console) != 0
    jobs = [
        Job(module, target, index, case.name)
        for module in modules
        for target in targets or TARGETS
        for index, case in enumerate(importlib.import_module(module).cases_of(target))
        if match in case.name
    ]
    out.mkdir(parents=True, exist_ok=True)
    rows = _compile_all(console, jobs, workers, out / "report.json")
    if docs is not None:
        write_tables(docs, rows)
    bad = [row for row in rows if not row.ok]
    console.print(f"{len(rows) - len(bad)} of {len(rows)} kernels and targets are good; {out / 'report.json'}")
    sys.exit(1 if bad or failed else 0)


def _numerics(console: Console) -> int:
    """Runs the tests of kernels: numerics and races in interpret mode."""
    console.print("[bold]Numerics and races[/bold], in interpret mode")
    return subprocess.run([sys.executable, "-m", "pytest", "tests/kernels"], check=False).returncode


def _compile_all(console: Console, jobs: list[Job], workers: int, report: Path) -> list[Row]:
    """Rows in the order of the jobs; the report is written after each, so that one that is cut off has something."""
    found: dict[Job, list[Row]] = {}
    columns = (
        TextColumn("Compiling"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[last]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(jobs), last="")
        for job, rows in run_jobs(jobs, _environment, workers):
            found[job] = rows
            _write_report(report, _in_order(jobs, found))
            progress.update(task, advance=1, last=f"{job.target}: {job.name}")
            for row in rows:
                if not row.ok:
                    progress.console.print(f"[red]{row.target}: {row.kernel}[/red]: {row.error}", highlight=False)
    return _in_order(jobs, found)


def _in_order(jobs: list[Job], found: dict[Job, list[Row]]) -> list[Row]:
    return [row for job in jobs for row in found.get(job, ())]


def _write_report(path: Path, rows: list[Row]) -> None:
    report = {"versions": versions(), "rows": [row.to_json() for row in rows]}
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _environment(target: str, dump: Path) -> dict[str, str]:
    return tpu.environment(dump) if target in tpu.TARGETS else gpu.environment(dump)


if __name__ == "__main__":
    main()
