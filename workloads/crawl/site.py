"""A local documentation site: serves a folder of HTML, finds pages, and takes as long about it as the real web does."""

import asyncio
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from aiohttp import web

from s2l_jax.core.errors import InvalidArgument
from workloads.crawl.extract import extract_page
from workloads.crawl.search import PassageIndex

# Generated lists of everything, which would match every question, and news of long ago.
_NO_CONTENT = ("genindex", "py-modindex", "search", "contents", "_", "whatsnew/")
_INDEX_PASSAGE_CHARS = 600


@dataclass(frozen=True, slots=True)
class SiteConfig:
    """How slow the site is.

    Attributes:
      latency_p50_s: median time until a page (or a search result) is sent.
      latency_sigma: standard deviation of the latency's logarithm; 0.9 fits the published gaps between pages.
      latency_scale: multiplies all latencies; 0 makes the site answer at once.
      seed: with the address, determines each latency.
    """

    latency_p50_s: float = 1.2
    latency_sigma: float = 0.9
    latency_scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("latency_p50_s", "latency_sigma", "latency_scale"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise InvalidArgument(f"{name} is {getattr(self, name)!r}, but must be 0 or more")

    def latency_s(self, address: str) -> float:
        """Seconds the site takes for an address, always the same ones."""
        rng = np.random.default_rng([self.seed, zlib.crc32(address.encode())])
        return float(self.latency_scale * self.latency_p50_s * np.exp(self.latency_sigma * rng.standard_normal()))


class Site:
    """Serves `/docs/PAGE` and `/search?q=QUESTION&k=PAGES` (a JSON list of addresses, best first).

    Example:
      async with Site(Path("html"), SiteConfig()) as site:
          await crawl(question, site.url, ...)
    """

    def __init__(self, root: Path, config: SiteConfig, say: Callable[[int, int], None] | None = None) -> None:
        """Indexes the pages below `root`; `say` is told how many of how many are done."""
        self._root = root.resolve()
        self._config = config
        self._index = PassageIndex()
        self._runner: web.AppRunner | None = None
        self.url = ""
        pages = [page for page in sorted(self._root.rglob("*.html")) if not self._name(page).startswith(_NO_CONTENT)]
        if not pages:
            raise InvalidArgument(f"{root} holds no HTML page; name a folder of HTML documentation")
        for number, page in enumerate(pages, start=1):
            self._index.add(f"/docs/{self._name(page)}", extract_page(page.read_bytes(), _INDEX_PASSAGE_CHARS))
            if say is not None:
                say(number, len(pages))
        self.pages = len(pages)

    def headings(self) -> list[str]:
        """What its passages are about, in order of the pages' names."""
        return self._index.headings()

    def _name(self, page: Path) -> str:
        return page.relative_to(self._root).as_posix()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.add_routes([web.get("/search", self._search), web.get("/docs/{page:.+}", self._page)])
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        self._index.close()

    async def _search(self, request: web.Request) -> web.Response:
        question, limit = request.query.get("q", ""), request.query.get("k", "10")
        if not limit.isdecimal():
            raise web.HTTPBadRequest(text=f"k is {limit!r}, expected a number of pages")
        hits = self._index.search_pages(question, int(limit))
        await asyncio.sleep(self._config.latency_s(f"/search?q={question}"))
        return web.json_response([hit.url for hit in hits])

    async def _page(self, request: web.Request) -> web.StreamResponse:
        page = (self._root / request.match_info["page"]).resolve()
        if not page.is_relative_to(self._root) or not page.is_file():
            raise web.HTTPNotFound(text=f"no page {request.path}")
        await asyncio.sleep(self._config.latency_s(request.path))
        return web.FileResponse(page)
