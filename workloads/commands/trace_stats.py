"""`s2l trace stats`: describes a trace."""

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from workloads.commands.trace_options import DEFAULT_TOKENS_PER_CHAR, make_encoding, progress_bar

_WORKLOADS = ("anns", "crawler")


@click.command(epilog="Example: s2l trace stats out/crawler.jsonl --published crawler --png out/crawler.png")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--published", type=click.Choice(_WORKLOADS), help="Compare with what is published of this workload.")
@click.option("--tokenize", metavar="MODEL", help="Count the tokens of texts as this model does.")
@click.option(
    "--tokens-per-char",
    type=float,
    help=f"Estimate the tokens of texts.  [default: {DEFAULT_TOKENS_PER_CHAR}, without --tokenize]",
)
@click.option("--png", type=click.Path(dir_okay=False, path_type=Path), help="Draw the distributions into this file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on stdout.")
def stats(
    file: Path,
    published: str | None,
    tokenize: str | None,
    tokens_per_char: float | None,
    png: Path | None,
    as_json: bool,
) -> None:
    """Describe a trace: sizes, times, what sessions share, what updates keep.

    A chunk is a piece of context that arrives after the query; retrieval lasts from the query to its last chunk.
    Sharing is what a session has in common with those that arrived before it.
    """
    from workloads.stats.load import file_stats
    from workloads.stats.published import compare
    from workloads.stats.table import lines, published_table, quantities_table

    if tokenize is None and tokens_per_char is None:
        tokens_per_char = DEFAULT_TOKENS_PER_CHAR
    encoding = make_encoding(tokenize, tokens_per_char)
    with progress_bar(Console(stderr=True), f"Reading {file.name}") as progress:
        found = file_stats(file, encoding, progress)
    rows = compare(found, published) if published else []
    if png is not None:
        from workloads.report.plots import save_png
        from workloads.stats.figure import stats_figure

        save_png(stats_figure(found, published), png)
    if as_json:
        beside = {"published": [{**asdict(row), "error": row.error} for row in rows]} if published else {}
        click.echo(json.dumps({**found.to_json(), **beside}, indent=2))
        return
    console = Console()
    click.echo("\n".join(lines(found)))
    console.print(quantities_table(found))
    if published:
        console.print(published_table(rows))
    if png is not None:
        click.echo(f"Picture: {png}")
