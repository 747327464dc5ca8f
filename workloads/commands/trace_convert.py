"""`s2l trace convert`: other formats into ours."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from workloads.commands.trace_options import make_encoding, progress_bar

if TYPE_CHECKING:
    from workloads.readers.convert import Converted

_FORMATS = ("auto", "anns", "azure", "burstgpt", "crawler", "mooncake", "s2l")


@click.command(
    epilog="""\b
Examples:
  s2l trace convert conversation_trace.jsonl --out out/mooncake.jsonl.gz
  s2l trace convert traces/simpleQA_ALL --qps 4 --tokenize smollm2-135m --out out/crawler.jsonl
  s2l trace convert AzureLLMInferenceTrace_conv.csv --no-chunks --limit 500 --out out/azure.jsonl"""
)
@click.argument("source", metavar="IN", type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Trace; .gz compresses it.")
@click.option("--format", "format_name", type=click.Choice(_FORMATS), default="auto", show_default=True, help="Of IN.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many sessions.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Output tokens at most.  [default: as told, or 1]")
@click.option("--max-prompt-tokens", type=click.IntRange(min=1), help="Leave longer sessions out.")
@click.option("--tokenize", metavar="MODEL", help="Turn text into tokens of this model (see s2l models list).")
@click.option("--tokens-per-char", type=float, help="Turn text into sizes, at so many tokens a character.")
@click.option(
    "--chunks/--no-chunks",
    default=True,
    show_default=True,
    help="Make up when pieces of context arrive, where IN does not tell, or make plain requests.",
)
@click.option("--qps", type=float, default=1.0, show_default=True, help="Arrivals a second, where IN does not tell.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of all that is made up.")
@click.option("--skip-bad", is_flag=True, help="Skip and count bad rows instead of stopping at the first.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON, and nothing else, on stdout.")
def convert(
    source: Path,
    out: Path,
    format_name: str,
    limit: int | None,
    max_tokens: int | None,
    max_prompt_tokens: int | None,
    tokenize: str | None,
    tokens_per_char: float | None,
    chunks: bool,
    qps: float,
    seed: int,
    skip_bad: bool,
    as_json: bool,
) -> None:
    """Convert a trace of another format, or change one of ours.

    IN is a file or folder: crawls or vector searches of Stream2LLM, Mooncake, BurstGPT, Azure (2023 and 2024), or a
    trace of ours to be cut or tokenized. Whatever IN does not tell is made up from the seed, and the trace says so.
    Prints what was skipped and why.
    """
    from workloads.readers.convert import Limits
    from workloads.readers.convert import convert as run
    from workloads.readers.formats import AUTO, FORMATS, detect
    from workloads.readers.found import ReadOptions

    console = Console(stderr=True)
    name = detect(source) if format_name == AUTO else format_name
    encoding = make_encoding(tokenize, tokens_per_char)
    options = ReadOptions(seed, qps, chunks, max_tokens)
    started_s = time.monotonic()
    with progress_bar(console, f"Converting {name}") as progress:
        opened = FORMATS[name](source, options, progress)
        done = run(opened, encoding, out, Limits(limit, max_prompt_tokens, skip_bad))
    took_s = time.monotonic() - started_s
    made_up = (*opened.made_up, *encoding.made_up)
    if as_json:
        told = {"sessions": done.sessions, "events": done.events, "skipped": dict(done.skipped), "bad": done.bad}
        click.echo(json.dumps({"out": str(out), "format": name, "made_up": made_up, **told}, indent=2))
    else:
        _report(out, done, made_up, took_s)


def _report(out: Path, done: "Converted", made_up: Sequence[str], took_s: float) -> None:
    click.echo(f"{out}: {done.sessions:,} sessions, {done.events:,} events in {took_s:.1f} s")
    for text in made_up:
        click.echo(f"made up: {text}")
    for what, times in done.skipped.most_common():
        click.echo(f"skipped: {times:,} {what}")
    for place in done.bad:
        click.echo(f"  {place}")
