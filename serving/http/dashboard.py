"""`GET /dashboard`: the live page, and the state that it asks for."""

import asyncio
import time
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from starlette.responses import JSONResponse

from serving.dashboard.history import MOST_SAMPLES
from serving.dashboard.state import state_of
from serving.http.door import Caller
from serving.watch.observation import Observation

PAGE_PATHS = ("/dashboard", "/dashboard/page.css", "/dashboard/page.js")
"""The page itself, which says nothing: without a key it can be loaded, and then asks for one."""

_TYPES = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_FRESH_S = 0.5
_MOST_KEPT = 64

Window = Annotated[int, Query(ge=10, le=MOST_SAMPLES, description="How many seconds to look back.")]


def dashboard_routes(observation: Observation) -> APIRouter:
    """The routes of the page."""
    router = APIRouter(prefix="/dashboard", include_in_schema=False)
    folder = files("serving.dashboard")
    pages = {ending: (folder / f"page.{ending}").read_bytes() for ending in _TYPES}
    states = _States(observation)

    def answer(ending: str) -> Response:
        return Response(pages[ending], headers=_HEADERS, media_type=_TYPES[ending])

    @router.get("")
    async def page() -> Response:
        return answer("html")

    @router.get("/page.css")
    async def style() -> Response:
        return answer("css")

    @router.get("/page.js")
    async def script() -> Response:
        return answer("js")

    @router.get("/state")
    async def state(account: Caller, window_s: Window = 60) -> Response:
        return JSONResponse(await states.get(account.tenant, window_s), headers={"Cache-Control": "no-store"})

    return router


class _States:
    """States of the server; one that is fresh is shown to all who ask in the same way.

    So a crowd of viewers costs what one of them costs.
    """

    def __init__(self, observation: Observation) -> None:
        self._observation = observation
        self._turn = asyncio.Lock()
        self._kept: dict[tuple[str, int], tuple[float, dict[str, Any]]] = {}

    async def get(self, tenant: str, window_s: int) -> dict[str, Any]:
        async with self._turn:
            made_s, state = self._kept.get((tenant, window_s), (0.0, {}))
            now_s = time.monotonic()
            if not state or now_s - made_s >= _FRESH_S:
                state = await asyncio.to_thread(self._make, tenant, window_s, now_s)
                if len(self._kept) >= _MOST_KEPT:
                    self._kept.clear()
                self._kept[tenant, window_s] = now_s, state
            return state

    def _make(self, tenant: str, window_s: int, now_s: float) -> dict[str, Any]:
        seen = self._observation
        return state_of(
            seen.book,
            seen.stats(),
            seen.facts,
            seen.history,
            now_s=now_s,
            window_s=window_s,
            tenant=tenant,
        )
