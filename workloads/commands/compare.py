"""`s2l compare`: puts runs side by side."""

import json
from pathlib import Path

import click
from rich.console import Console


@click.command(epilog="Example: s2l compare out/stream out/wait --out out/compare")
@click.argument(
    "runs", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR DIR..."
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Write report.html and ttft.png there.")
@click.option("--json", "as_json", is_flag=True, help="Print figures and differing answers as JSON.")
def compare(runs: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Put runs of `s2l replay` side by side: figures, ratios to the first, and whether the answers are equal."""
    from workloads.report.page import write_report
    from workloads.report.plots import save_png, ttft_figure
    from workloads.report.run import answers_agree, load_runs
    from workloads.report.table import rich_table

    console = Console(stderr=as_json)
    loaded = load_runs(runs)
    agreement = answers_agree(loaded)
    if as_json:
        value = {
            "runs": {run.name: run.summary for run in loaded},
            "answers": {
                "compared": agreement.compared,
                "equal": agreement.equal,
                "mismatch": agreement.mismatch,
                "differing": [{"question": question, "answers": texts} for question, texts in agreement.differing],
            },
        }
        click.echo(json.dumps(value, indent=2))
    else:
        console.print(rich_table(loaded))
        if len(loaded) > 1:
            console.print(agreement.describe(), highlight=False)
    if out is not None:
        write_report(out / "report.html", loaded, " against ".join(run.name for run in loaded))
        save_png(ttft_figure(loaded), out / "ttft.png")
        console.print(f"Report: {out}/report.html", highlight=False)
