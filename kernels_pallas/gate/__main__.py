"""`python -m kernels_pallas.gate`: numerics, races, and compilation for all targets; see docs/kernels.md."""

import importlib
import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kernels_pallas.gate import gpu, tpu
from kernels_pallas.gate.compile import prepare
from kernels_pallas.gate.markdown import versions, write_tables
from kernels_pallas.gate.row import Row
from kernels_pallas.gate.runner import Compilation, Job, Tests, run_jobs

TARGETS = (*tpu.TARGETS, *gpu.TARGETS)


@click.command()
@click.option(
    "--cases",
    "modules",
    multiple=True,
    default=("kernels_pallas.gate.cases",),
    show_default=True,
    help="Modules whose `cases_of` says which kernels are compiled.",
)
@click.option(
    "--steps",
    multiple=True,
    help="Likewise, of whole programs: libtpu does not report on each of their kernels, which doubles its work.",
)
@click.option("--target", "targets", multiple=True, type=click.Choice(TARGETS), help="[default: all]")
@click.option("--match", default="", help="Only cases with this in their names.")
@click.option(
    "--tests",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Tests to run as well; of a folder, each entry by itself.",
)
@click.option("--jobs", "workers", default=2, show_default=True, type=click.IntRange(min=1), help="Side by side.")
@click.option("--out", default=Path("out/kernels"), show_default=True, type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--docs", type=click.Path(dir_okay=False, exists=True, path_type=Path), help="Write tables into this page."
)
def main(
    modules: tuple[str, ...],
    steps: tuple[str, ...],
    targets: tuple[str, ...],
    match: str,
    tests: tuple[Path, ...],
    workers: int,
    out: Path,
    docs: Path | None,
) -> None:
    """Check all kernels without the devices that they are for.

    The exit code is 1 if a test fails, or if a kernel does not compile, spills registers, or copies the page pool.
    """
    console = Console(stderr=True)
    jobs: list[Job] = [Tests(path) for folder in tests for path in _entries(folder)]
    jobs += [
        Compilation(module, target, name, has_reports=module in modules)
        for module in (*modules, *steps)
        for target in targets or TARGETS
        for name in importlib.import_module(module).cases_of(target)
        if match in name
    ]
    prepare([*modules, *steps])
    out.mkdir(parents=True, exist_ok=True)
    rows = _run_all(console, jobs, workers, out / "report.json")
    if docs is not None:
        write_tables(docs, rows)
    bad = [row for row in rows if not row.ok]
    console.print(f"{len(rows) - len(bad)} of {len(rows)} rows are good; {out / 'report.json'}")
    sys.exit(1 if bad else 0)


def _entries(path: Path) -> list[Path]:
    """Tests that run by themselves; those that take longest are in folders, which come first."""
    if path.is_file():
        return [path]
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and any(entry.glob("test_*.py")))
    return [*folders, *sorted(path.glob("test_*.py"))]


def _run_all(console: Console, jobs: list[Job], workers: int, report: Path) -> list[Row]:
    """Rows in the order of the jobs; the report is written after each, so that one that is cut off has something."""
    found: dict[Job, list[Row]] = {}
    columns = (
        TextColumn("Kernels"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[last]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(jobs), last="")
        for job, rows in run_jobs(jobs, workers):
            found[job] = rows
            _write_report(report, _in_order(jobs, found))
            progress.update(task, advance=1, last=f"{job.target}: {job.name}")
            if not console.is_terminal:
                console.print(f"{progress.tasks[0].completed:.0f} of {len(jobs)}: {job.target}: {job.name}")
            for row in rows:
                if not row.ok:
                    progress.console.print(f"[red]{row.target}: {row.kernel}[/red]: {row.error}", highlight=False)
    return _in_order(jobs, found)


def _in_order(jobs: list[Job], found: dict[Job, list[Row]]) -> list[Row]:
    return [row for job in jobs for row in found.get(job, ())]


def _write_report(path: Path, rows: list[Row]) -> None:
    report = {"versions": versions(), "rows": [row.to_json() for row in rows]}
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
