"""Answers a question's need for context: searches a site, fetches the best pages, hands each over as it arrives."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import aiohttp

from s2l_jax.core.errors import InvalidArgument
from workloads.crawl.extract import extract_page
from workloads.crawl.search import Hit, best_passage
from workloads.prompt import Prompt
from workloads.trace import Event

_FETCH_TIMEOUT = aiohttp.ClientTimeout(total=60)


@dataclass(frozen=True, slots=True)
class CrawlConfig:
    """What a crawl fetches.

    Attributes:
      pages: pages per question at most.
      passage_chars: characters of a page's most relevant passage (4 characters are about a token).
      concurrency: pages fetched at the same time for one question.
      max_tokens: output tokens asked of the model.
    """

    pages: int = 8
    passage_chars: int = 500
    concurrency: int = 2
    max_tokens: int = 40

    def __post_init__(self) -> None:
        for name in ("pages", "passage_chars", "concurrency", "max_tokens"):
            if getattr(self, name) < 1:
                raise InvalidArgument(f"{name} is {getattr(self, name)!r}, but must be at least 1")


async def crawl(
    session: str,
    question: str,
    site_url: str,
    http: aiohttp.ClientSession,
    config: CrawlConfig,
    prompt: Prompt,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Event]:
    """Crawls for one question and yields its session's events as they happen.

    The session opens when the question arrives. Pages are appended in the order in which they come in, and the last one
    also brings the question. A page that cannot be fetched is left out.

    Args:
      session: id of the session.
      question: in plain words.
      site_url: address of a `Site`.
      http: connections to it.
      config: how much to fetch.
      prompt: what stands around the pages.
      clock: seconds, on the caller's clock.

    Yields:
      open, one append per page, finish; `t_s` is the clock's time.

    Raises:
      aiohttp.ClientError: the search failed.
    """
    yield Event(clock(), session, "open", text=prompt.head, max_tokens=config.max_tokens, note=question)
    params = {"q": question, "k": str(config.pages)}
    async with http.get(f"{site_url}/search", params=params, timeout=_FETCH_TIMEOUT) as response:
        response.raise_for_status()
        urls: list[str] = await response.json()
    slots = asyncio.Semaphore(config.concurrency)
    fetches = [asyncio.create_task(_fetch(http, site_url, url, question, config, slots)) for url in urls]
    held: Event | None = None  # the last page waits for the question, which it brings along
    try:
        for number, done in enumerate(asyncio.as_completed(fetches), start=1):
            hit = await done
            if hit is not None:
                text = prompt.page(hit.title, hit.heading, hit.text)
                held = Event(clock(), session, "append", text=text, note=hit.url)
                if number < len(fetches):
                    yield held
                    held = None
    finally:
        for fetch in fetches:
            fetch.cancel()
    now_s = held.t_s if held else clock()
    text, note = (held.text or "", held.note) if held else ("", "")
    yield Event(now_s, session, "append", text=text + prompt.tail(question), note=note)
    yield Event(now_s, session, "finish")


async def _fetch(
    http: aiohttp.ClientSession, site_url: str, url: str, question: str, config: CrawlConfig, slots: asyncio.Semaphore
) -> Hit | None:
    """The best passage of a page, None if there is none or the page cannot be had."""
    try:
        async with slots, http.get(site_url + url, timeout=_FETCH_TIMEOUT) as response:
            response.raise_for_status()
            html = await response.read()
    except (aiohttp.ClientError, TimeoutError):
        return None
    hit = best_passage(extract_page(html, config.passage_chars), question)
    return None if hit is None else Hit(url, hit.title, hit.heading, hit.text, hit.score)
