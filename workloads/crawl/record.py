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

_START_INTERVAL_S = 0.25


async def record_crawl(
    path: Path,
    questions: Sequence[str],
    site: Site,
    source: str,
    site_config: SiteConfig,
    config: CrawlConfig,
    prompt: Prompt,
    on_event: Callable[[Event], None] | None = None,
) -> None:
    """Crawls for all questions, a quarter of a second apart, and writes the trace.

    Args:
      path: the trace to write.
      questions: one session each, named q01, q02, ...
      site: a running site.
      source: what the pages are and under which licence they come; goes into the trace's header.
      site_config: the site's delays; goes into the header.
      config: how much to fetch.
      prompt: what stands around the pages.
      on_event: told of each event as it happens.

    Raises:
      aiohttp.ClientError: a search failed.
    """
    started_s = time.monotonic()
    events: list[Event] = []

    async def one(number: int, question: str) -> None:
        await asyncio.sleep((number - 1) * _START_INTERVAL_S * site_config.latency_scale)
        session = f"q{number:02d}"
        clock = lambda: time.monotonic() - started_s  # noqa: E731
        async for event in crawl(session, question, site.url, http, config, prompt, clock):
            events.append(event)
            if on_event is not None:
                on_event(event)

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http, asyncio.TaskGroup() as tasks:
        for number, question in enumerate(questions, start=1):
            tasks.create_task(one(number, question))
    details = {"kind": "crawl", "site": asdict(site_config), "crawl": asdict(config)}
    write_trace(path, Header("python-docs-crawl", source, details), events)
