"""Answers a question's need for context: searches a site, fetches the best pages, hands each over as it arrives."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import aiohttp

from s2l_jax.core.errors import InvalidArgument
from workloads.crawl.extract import extract_links, extract_page
from workloads.crawl.search import Hit, best_passage, query_words
from workloads.prompt import Prompt
from workloads.trace import Event

_FETCH_TIMEOUT = aiohttp.ClientTimeout(total=60)
_PAGES = "/docs/"


@dataclass(frozen=True, slots=True)
class CrawlConfig:
    """What a crawl fetches.

    Attributes:
      pages: pages per question at most that the search finds.
      depth: 1 reads these; 2 also pages that they link to, 3 what those link to, and so on.
      links: pages at most that are followed from one page.
      passage_chars: characters of a page's most relevant passage (4 characters are about a token).
      concurrency: pages fetched at the same time for one question.
      max_tokens: output tokens asked of the model.
    """

    pages: int = 8
    depth: int = 1
    links: int = 2
    passage_chars: int = 500
    concurrency: int = 2
    max_tokens: int = 40

    def __post_init__(self) -> None:
        for name in ("pages", "depth", "links", "passage_chars", "concurrency", "max_tokens"):
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
    held: Event | None = None  # the last page waits for the question, which it brings along
    async with contextlib.aclosing(_read_all(http, site_url, urls, question, config)) as hits:
        async for hit, more in hits:
            held = Event(clock(), session, "append", text=prompt.page(hit.title, hit.heading, hit.text), note=hit.url)
            if more:
                yield held
                held = None
    now_s = held.t_s if held else clock()
    text, note = (held.text or "", held.note) if held else ("", "")
    yield Event(now_s, session, "append", text=text + prompt.tail(question), note=note)
    yield Event(now_s, session, "finish")


async def _read_all(
    http: aiohttp.ClientSession, site_url: str, urls: Sequence[str], question: str, config: CrawlConfig
) -> AsyncGenerator[tuple[Hit, bool]]:
    """Reads pages and what they link to; yields what it finds when it does, and whether more may follow."""
    seen = set(urls)
    slots = asyncio.Semaphore(config.concurrency)

    def read(url: str, depth: int) -> asyncio.Task[_Read]:
        return asyncio.create_task(_read(http, site_url, url, depth, question, config, slots))

    reading = {read(url, 1) for url in urls}
    try:
        while reading:
            done, reading = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
            pages = [task.result() for task in done]
            for page in pages:
                new = [url for url in page.links if url not in seen][: config.links]
                seen.update(new)
                reading |= {read(url, page.depth + 1) for url in new}
            hits = [page.hit for page in pages if page.hit is not None]
            for number, hit in enumerate(hits, start=1):
                yield hit, bool(reading) or number < len(hits)
    finally:
        for task in reading:
            task.cancel()


@dataclass(frozen=True, slots=True)
class _Read:
    """What came of a page: its best passage if it has one, and addresses to go on with, best first."""

    depth: int
    hit: Hit | None
    links: Sequence[str]


async def _read(
    http: aiohttp.ClientSession,
    site_url: str,
    url: str,
    depth: int,
    question: str,
    config: CrawlConfig,
    slots: asyncio.Semaphore,
) -> _Read:
    """Fetches a page; one that cannot be had is as good as empty."""
    try:
        async with slots, http.get(site_url + url, timeout=_FETCH_TIMEOUT) as response:
            response.raise_for_status()
            html = await response.read()
    except (aiohttp.ClientError, TimeoutError):
        return _Read(depth, None, ())
    hit = best_passage(extract_page(html, config.passage_chars), question)
    found = None if hit is None else Hit(url, hit.title, hit.heading, hit.text, hit.score)
    return _Read(depth, found, _links(html, url, question) if depth < config.depth else ())


def _links(html: bytes, url: str, question: str) -> list[str]:
    """Pages of the site that a page links to, those whose link speaks of the question first."""
    words = query_words(question)
    links = [link for link in extract_links(html, url) if link.url.startswith(_PAGES)]
    links.sort(key=lambda link: -sum(word in link.text.lower() for word in words))
    return list(dict.fromkeys(link.url for link in links))
