"""First half of the demonstration: crawl real documentation, or take the crawl that comes with this package."""

import asyncio
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from workloads.crawl.crawler import CrawlConfig
from workloads.crawl.docs import Docs, docs_cache_dir, find_python_docs, stored_crawl
from workloads.crawl.questions import PYTHON_QUESTIONS
from workloads.crawl.record import record_crawl
from workloads.crawl.site import Site, SiteConfig
from workloads.prompt import Prompt
from workloads.trace import Event, Trace, read_trace

_START_INTERVAL_S = 0.25


def crawl_or_stored(path: Path, seed: int, console: Console) -> Trace:
    """Crawls live and records to `path`; where there is no documentation to crawl, takes the stored crawl.

    Args:
      path: file for the recorded trace.
      seed: of the site's delays.
      console: told what happens.
    """
    docs = find_python_docs(docs_cache_dir(), console.print)
    if docs is None:
        console.print("Taking the crawl that comes with this package instead.")
        return read_trace(stored_crawl())
    asyncio.run(_crawl(docs, path, seed, console))
    return read_trace(path)


async def _crawl(docs: Docs, path: Path, seed: int, console: Console) -> None:
    config, site_config = CrawlConfig(), SiteConfig(seed=seed)
    columns = (TextColumn("  {task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        indexing = progress.add_task("indexing the site", total=None, state="")

        def indexed(done: int, total: int) -> None:
            progress.update(indexing, completed=done, total=total, state=f"{done}/{total} pages")

        async with Site(docs.root, site_config, indexed) as site:
            count = len(PYTHON_QUESTIONS)
            crawling = progress.add_task("crawling", total=count * (config.pages + 2), state="")
            done = pages = 0

            def on_event(event: Event) -> None:
                nonlocal done, pages
                done += event.op == "finish"
                pages += event.op == "append"
                progress.update(crawling, advance=1, state=f"{pages} pages, {done}/{count} questions complete")

            starts_s = [number * _START_INTERVAL_S for number in range(count)]
            await record_crawl(
                path, PYTHON_QUESTIONS, site, docs.source, site_config, config, Prompt(), starts_s, on_event
            )
            progress.update(crawling, total=progress.tasks[crawling].completed)
