"""`s2l trace crawl`: a live crawl of documentation, recorded as a trace."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from s2l_jax.core.errors import Unavailable
from workloads.commands.arrival_options import arrival_options, make_arrivals
from workloads.commands.trace_options import progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workloads.crawl.crawler import CrawlConfig
    from workloads.crawl.site import SiteConfig
    from workloads.generate.arrivals import ArrivalProcess
    from workloads.trace import Event


@click.command(
    epilog="""\b
Examples:
  s2l trace crawl --questions 100 --qps 2 --out out/crawl.jsonl
  s2l trace crawl --concurrency 8 --depth 3 --delay 0.1 --out out/deep.jsonl"""
)
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Trace; .gz compresses it.")
@click.option("--questions", type=click.IntRange(min=1), default=14, show_default=True, help="How many are asked.")
@click.option("--qps", type=float, default=4.0, show_default=True, help="Questions a second.")
@arrival_options
@click.option("--concurrency", type=int, default=2, show_default=True, help="Pages read at once for a question.")
@click.option("--pages", type=int, default=8, show_default=True, help="Pages that the search finds, for a question.")
@click.option("--depth", type=int, default=1, show_default=True, help="2 reads what these link to as well, and so on.")
@click.option("--links", type=int, default=2, show_default=True, help="Links followed from a page.")
@click.option("--passage-chars", type=int, default=500, show_default=True, help="Taken of a page.")
@click.option("--delay", type=float, default=1.0, show_default=True, help="Multiplies all delays of the site.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of delays, arrivals and further questions.")
@click.option("--max-tokens", type=int, default=40, show_default=True, help="Output tokens asked for.")
@click.option("--docs", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of HTML to crawl.")
def crawl(
    out: Path,
    questions: int,
    qps: float,
    arrivals: str,
    variation: float,
    swing: float,
    period_s: float | None,
    concurrency: int,
    pages: int,
    depth: int,
    links: int,
    passage_chars: int,
    delay: float,
    seed: int,
    max_tokens: int,
    docs: Path | None,
) -> None:
    """Crawl documentation for many questions at once, and record the pages as they come in.

    A local site serves Python's documentation (fetched once as a Debian package) with the delays of the real web; the
    crawl takes as long as it takes. The first questions are the demo's, further ones ask what documented functions do.
    """
    from workloads.crawl.crawler import CrawlConfig
    from workloads.crawl.site import SiteConfig

    config = CrawlConfig(pages, depth, links, passage_chars, concurrency, max_tokens)
    site_config = SiteConfig(latency_scale=delay, seed=seed)
    process = make_arrivals(arrivals, variation, swing, period_s)
    events = asyncio.run(_crawl(out, questions, qps, process, config, site_config, docs))
    appended = sum(event.op == "append" for event in events)
    click.echo(f"{out}: {questions:,} questions, {appended:,} pages in {events[-1].t_s:.1f} s")


async def _crawl(
    out: Path,
    count: int,
    qps: float,
    arrivals: "ArrivalProcess",
    config: "CrawlConfig",
    site_config: "SiteConfig",
    docs: Path | None,
) -> "list[Event]":
    import numpy as np

    from workloads.crawl.questions import questions_about
    from workloads.crawl.record import record_crawl
    from workloads.crawl.site import Site
    from workloads.prompt import Prompt

    console = Console(stderr=True)
    root, source, first = _documentation(docs, console)
    happened: list[Event] = []
    with progress_bar(console, "Indexing") as progress:
        site = Site(root, site_config, progress)
    async with site:
        questions = questions_about(site.headings(), count, site_config.seed, first)
        starts_s = arrivals(np.random.default_rng([site_config.seed, 4]), count, qps).tolist()
        with progress_bar(console, "Crawling") as progress:
            finished = 0

            def on_event(event: "Event") -> None:
                nonlocal finished
                happened.append(event)
                finished += event.op == "finish"
                progress(finished, count)

            await record_crawl(out, questions, site, source, site_config, config, Prompt(), starts_s, on_event)
    return happened


def _documentation(docs: Path | None, console: Console) -> "tuple[Path, str, Sequence[str]]":
    """What is crawled, where it comes from, and the questions to begin with."""
    from workloads.crawl.docs import docs_cache_dir, find_python_docs
    from workloads.crawl.questions import PYTHON_QUESTIONS

    if docs is not None:
        return docs, f"crawled from {docs.name}", ()
    found = find_python_docs(docs_cache_dir(), lambda text: console.print(text, highlight=False))
    if found is None:
        raise Unavailable("Python's documentation is not to be had here; name a folder of HTML with --docs")
    return found.root, found.source, PYTHON_QUESTIONS
