"""Context from files, web pages and standard input, in the order in which it arrives."""

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from s2l_jax.core.errors import InvalidArgument
from serving.commands.html import decode_html, text_of_html

STDIN = "standard input"
_MAX_PAGE_BYTES = 16 << 20
_SCHEMES = ("http://", "https://")
_USER_AGENT = "s2l-ask (+https://pypi.org/project/s2l-jax)"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A source that has arrived, or failed to.

    Attributes:
      source: path or URL.
      text: what it says, empty if it failed.
      problem: why it failed, or what was left out; None if all is well.
    """

    source: str
    text: str
    problem: str | None = None


def check_sources(sources: Sequence[str]) -> None:
    """Finds mistakes before anything is loaded.

    Raises:
      InvalidArgument: a source is neither a URL nor a readable file.
    """
    for source in sources:
        if not source.startswith(_SCHEMES) and not Path(source).is_file():
            raise InvalidArgument(f"--context {source} is neither a file nor an http(s) URL: check the path")


async def arrivals(
    sources: Sequence[str], *, with_stdin: bool, timeout_s: float, limit_chars: int | None
) -> AsyncGenerator[Arrival]:
    """Fetches everything at once and yields each source when it is there; standard input in pieces, line by line.

    Args:
      sources: paths and URLs.
      with_stdin: also read standard input to its end.
      timeout_s: for each URL.
      limit_chars: characters taken of each path or URL; what is cut is reported in `problem`.
    """
    queue: asyncio.Queue[Arrival | None] = asyncio.Queue()
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with aiohttp.ClientSession(timeout=timeout, headers={"User-Agent": _USER_AGENT}) as http:
        fetches = [asyncio.create_task(_fetch(http, source, limit_chars, queue)) for source in sources]
        if with_stdin:
            _read_stdin(queue)
        running = len(fetches) + with_stdin
        try:
            while running:
                arrival = await queue.get()
                if arrival is None:
                    running -= 1
                else:
                    yield arrival
        finally:
            for fetch in fetches:
                fetch.cancel()
            await asyncio.gather(*fetches, return_exceptions=True)


async def _fetch(
    http: aiohttp.ClientSession, source: str, limit_chars: int | None, queue: "asyncio.Queue[Arrival | None]"
) -> None:
    try:
        is_url = source.startswith(_SCHEMES)
        text = await (_fetch_url(http, source) if is_url else asyncio.to_thread(_read_file, source))
        queue.put_nowait(_cut(source, text, limit_chars))
    except (aiohttp.ClientError, OSError, ValueError) as error:  # OSError: also time-outs
        queue.put_nowait(Arrival(source, "", str(error) or type(error).__name__))
    finally:
        queue.put_nowait(None)


def _cut(source: str, text: str, limit_chars: int | None) -> Arrival:
    if limit_chars is None or len(text) <= limit_chars:
        return Arrival(source, text)
    return Arrival(source, text[:limit_chars], f"cut to {limit_chars} of {len(text)} characters")


async def _fetch_url(http: aiohttp.ClientSession, url: str) -> str:
    async with http.get(url) as response:
        response.raise_for_status()
        kind = response.content_type
        if not kind.startswith("text/") and kind not in ("application/xhtml+xml", "application/json"):
            raise ValueError(f"{kind} is not text")
        body = await response.content.read(_MAX_PAGE_BYTES + 1)
        while len(body) <= _MAX_PAGE_BYTES and (more := await response.content.read(_MAX_PAGE_BYTES)):
            body += more
        if len(body) > _MAX_PAGE_BYTES:
            raise ValueError(f"the page is larger than {_MAX_PAGE_BYTES >> 20} MiB")
        charset = response.charset
    if "html" not in kind:
        return body.decode(charset or "utf-8", "replace")
    return await asyncio.to_thread(lambda: text_of_html(decode_html(body, charset)))


def _read_file(path: str) -> str:
    body = Path(path).read_bytes()
    if b"\0" in body[:4096]:
        raise ValueError("the file is not text")
    is_html = Path(path).suffix.lower() in (".html", ".htm", ".xhtml")
    return text_of_html(decode_html(body, None)) if is_html else body.decode("utf-8", "replace")


def _read_stdin(queue: "asyncio.Queue[Arrival | None]") -> None:
    """Reads in a thread that does not keep the process alive: nobody can interrupt a blocking read."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody wants the rest
            for line in sys.stdin:
                loop.call_soon_threadsafe(queue.put_nowait, Arrival(STDIN, line))
            loop.call_soon_threadsafe(queue.put_nowait, None)

    threading.Thread(target=read, name="s2l-stdin", daemon=True).start()
