"""`s2l trace generate`: makes up traces like the published workloads."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from workloads.commands.arrival_options import arrival_options, make_arrivals
from workloads.commands.trace_options import progress_bar

if TYPE_CHECKING:
    from workloads.generate.config import GeneratorConfig
    from workloads.generate.content import Source
    from workloads.readers.found import Progress as OnProgress
    from workloads.stats.published import Comparison
    from workloads.trace import Session

_WORKLOADS = ("crawler", "anns")


@click.command(
    epilog="""\b
Examples:
  s2l trace generate crawler --qps 4 --out out/crawler.jsonl
  s2l trace generate crawler --qps 4 --delay 10 --arrivals bursty --out out/delayed.jsonl
  s2l trace generate anns --sessions 50 --token-scale 0.1 --text --max-tokens 32 --out out/anns.jsonl"""
)
@click.argument("workload", type=click.Choice(_WORKLOADS))
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Trace; .gz compresses it.")
@click.option("--sessions", type=click.IntRange(min=1), help="Queries.  [default: as published, 4322 and 500]")
@click.option("--qps", type=float, default=1.0, show_default=True, help="Arrivals a second.")
@arrival_options
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything.")
@click.option("--delay", type=float, default=1.0, show_default=True, help="Multiplies all times of retrieval.")
@click.option("--token-scale", type=float, default=1.0, show_default=True, help="Multiplies all token counts.")
@click.option("--max-tokens", type=int, default=1, show_default=True, help="Output tokens asked for.")
@click.option("--max-prompt-tokens", type=int, default=130_000, show_default=True, help="Cut longer prompts to this.")
@click.option("--corpus", type=int, default=5000, show_default=True, help="Documents there are.")
@click.option("--popularity", type=float, default=0.9, show_default=True, help="Exponent of Zipf's law; 0 is uniform.")
@click.option("--returns", type=float, help="anns: share of versions that were there before.  [default: 0.1]")
@click.option("--text", "content", flag_value="text", help="Write passages of Python's documentation.")
@click.option("--tokens", "content", flag_value="tokens", help="Write token ids.  [default: names and sizes]")
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON, and nothing else, on stdout.")
def generate(
    workload: str,
    out: Path,
    sessions: int | None,
    qps: float,
    arrivals: str,
    variation: float,
    swing: float,
    period_s: float | None,
    seed: int,
    delay: float,
    token_scale: float,
    max_tokens: int,
    max_prompt_tokens: int,
    corpus: int,
    popularity: float,
    returns: float | None,
    content: str | None,
    as_json: bool,
) -> None:
    """Make up a trace like one of the published workloads.

    In a crawler's sessions context grows page by page; in a vector search's (anns), a list of documents is replaced by
    a better one, and sessions share documents. Without --text or --tokens, the trace tells names and sizes alone.
    Shows its figures beside those that are published of Stream2LLM's workloads.
    """
    from workloads.published import QUERIES

    if returns is not None and workload != "anns":
        raise click.UsageError("--returns is for anns: a crawler's pages stay")
    options: dict[str, Any] = {
        "sessions": sessions or QUERIES[workload],
        "qps": qps,
        "arrivals": make_arrivals(arrivals, variation, swing, period_s),
        "seed": seed,
        "time_scale": delay,
        "token_scale": token_scale,
        "max_tokens": max_tokens,
        "max_prompt_tokens": max_prompt_tokens,
        "corpus": corpus,
        "popularity": popularity,
        **({} if returns is None else {"returns": returns}),
    }
    console = Console(stderr=True)
    started_s = time.monotonic()
    with progress_bar(console, f"Making {workload}") as progress:
        config = _write(workload, options, content, out, progress)
    took_s = time.monotonic() - started_s
    with progress_bar(console, "Comparing") as progress:
        rows = _compare(workload, config, out, progress)
    if as_json:
        beside = [{**asdict(row), "error": row.error} for row in rows]
        click.echo(json.dumps({"out": str(out), "sessions": config.sessions, "published": beside}, indent=2))
        return
    from workloads.stats.table import published_table

    click.echo(f"{out}: {config.sessions:,} sessions, {out.stat().st_size / 1e6:.1f} MB in {took_s:.1f} s")
    Console().print(published_table(rows))
    if (delay, token_scale) != (1.0, 1.0):
        click.echo(f"Published times are multiplied by {delay:g}, token counts by {token_scale:g}, as the trace's are.")


def _write(
    workload: str, options: dict[str, Any], content: str | None, out: Path, progress: "OnProgress"
) -> "GeneratorConfig":
    from workloads.generate.anns import AnnsConfig, anns_header, anns_sessions
    from workloads.generate.crawler import CrawlerConfig, crawler_header, crawler_sessions
    from workloads.generate.writing import write_sessions

    source, licence = _source(content)
    config: CrawlerConfig | AnnsConfig
    if workload == "crawler":
        config = CrawlerConfig(**options)
        header, made = crawler_header(config), crawler_sessions(config, source)
    else:
        config = AnnsConfig(**options)
        header, made = anns_header(config), anns_sessions(config, source)
    if licence:
        header = replace(header, source=f"{header.source}; text: {licence}")
    write_sessions(out, header, _counted(made, config.sessions, progress))
    return config


def _source(content: str | None) -> tuple["Source | None", str]:
    """Where content comes from, and its licence."""
    if content == "text":
        from workloads.generate.text import DocumentationText

        text = DocumentationText()
        return text, text.licence
    if content == "tokens":
        from workloads.generate.tokens import random_tokens

        return random_tokens, ""
    return None, ""


def _counted(sessions: "Iterator[Session]", total: int, progress: "OnProgress") -> "Iterator[Session]":
    for number, session in enumerate(sessions, start=1):
        yield session
        progress(number, total)


def _compare(workload: str, config: "GeneratorConfig", out: Path, progress: "OnProgress") -> "list[Comparison]":
    """What is in the file beside the published figures, which are scaled as the trace was."""
    from workloads.generate.text import CHARS_PER_TOKEN
    from workloads.readers.encode import size_encoding
    from workloads.stats.load import file_stats
    from workloads.stats.published import compare

    stats = file_stats(out, size_encoding(1.0 / CHARS_PER_TOKEN), progress)
    scales = {"tokens": config.token_scale, "retrieval_s": config.time_scale, "gap_s": config.time_scale}
    return [replace(row, published=row.published * scales.get(row.quantity, 1.0)) for row in compare(stats, workload)]
