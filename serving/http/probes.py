"""`GET /health`, `GET /ready` and `GET /v1/models`."""

import time

from fastapi import APIRouter

from s2l_jax.core.errors import Unavailable
from serving.http.backend import Backend
from serving.http.responses import Model, ModelList, Status


def probe_routes(backend: Backend) -> APIRouter:
    """The routes that say what is served and how it is doing."""
    router = APIRouter(tags=["server"])
    model = Model(
        id=backend.model.name,
        created=int(time.time()),
        owned_by="s2l",
        max_model_len=backend.model.max_model_len,
    )

    @router.get("/health")
    async def health() -> Status:
        """Says that the process lives."""
        return Status(status="ok")

    @router.get("/ready")
    async def ready() -> Status:
        """Says whether sessions may be opened: 503 while the server drains, or if its engine has stopped."""
        reason = backend.orchestrator.unready()
        if reason is not None:
            raise Unavailable(reason)
        return Status(status="ready")

    @router.get("/v1/models")
    async def models() -> ModelList:
        """Lists the served model."""
        return ModelList(data=[model])

    @router.get("/v1/models/{name:path}")
    async def one_model(name: str) -> Model:
        """The served model."""
        backend.check_model(name)
        return model

    return router
