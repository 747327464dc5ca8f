"""Crawls for many questions at once and records what happened, with its text and its timing, as a trace."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import aiohttp

from workloads.crawl.crawler import CrawlConfig, crawl
from workloads.crawl.site import Site, SiteConfig
from workloads.prompt import Prompt
from workloads.trace import Event, Header, write_trace


async def record_crawl(
    path: Path,
    questions: Sequence[str],
    site: Site,
    source: str,
    site_config: SiteConfig,
    config: CrawlConfig,
    prompt: Prompt,
    starts_s: Sequence[float],
    on_event: Callable[[Event], None] | None = None,
) -> None:
    """Crawls for all questions and writes the trace.

    Args:
      path: the trace to write.
      questions: one session each, named q01, q02, ...
      site: a running site.
      source: what the pages are and under which licence they come; goes into the trace's header.
      site_config: the site's delays; goes into the header.
      config: how much to fetch.
      prompt: what stands around the pages.
      starts_s: when each question is asked, in seconds from now.
      on_event: told of each event as it happens.

    Raises:
      aiohttp.ClientError: a search failed.
    """
    started_s = time.monotonic()
    events: list[Event] = []

    async def one(number: int, question: str, start_s: float) -> None:
        await asyncio.sleep(start_s)
        session = f"q{number:02d}"
        clock = lambda: time.monotonic() - started_s  # noqa: E731
        async for event in crawl(session, question, site.url, http, config, prompt, clock):
            events.append(event)
            if on_event is not None:
                on_event(event)

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http, asyncio.TaskGroup() as tasks:
        for number, (question, start_s) in enumerate(zip(questions, starts_s, strict=True), start=1):
            tasks.create_task(one(number, question, start_s))
    details = {"kind": "crawl", "site": asdict(site_config), "crawl": asdict(config)}
    write_trace(path, Header("docs-crawl", source, details), events)
