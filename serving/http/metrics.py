"""`GET /metrics`, for Prometheus."""

import asyncio

from fastapi import APIRouter, Request, Response

from serving.metrics.exposition import Exposition


def metric_routes(exposition: Exposition) -> APIRouter:
    """The route of metrics."""
    router = APIRouter(tags=["server"])
    turn = asyncio.Lock()

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}, "application/openmetrics-text": {}}}},
    )
    async def metrics(http: Request) -> Response:
        """All metrics, in Prometheus' text format, or in OpenMetrics if asked for."""
        async with turn:  # one at a time, so that a crowd of scrapers cannot take all threads
            body, content_type = await asyncio.to_thread(exposition.encode, http.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type})

    return router
