"""`POST /debug/profile`: a profile of what JAX does, where the server was started with a directory for it."""

import asyncio
import time
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from s2l_jax.core.errors import InternalError, ResourceExhausted

_LONGEST_S = 60.0


class Profile(BaseModel):
    """A profile that has been taken."""

    path: str = Field(description="Its directory on the server: open it with TensorBoard or XProf.")
    seconds: float = Field(description="How long it watched.")


def profile_routes(directory: Path) -> APIRouter:
    """The route of profiles, which are written into this directory."""
    router = APIRouter(tags=["server"])
    turn = asyncio.Lock()

    @router.post("/debug/profile")
    async def profile(
        seconds: Annotated[float, Query(ge=0.05, le=_LONGEST_S, description="How long to watch.")] = 2.0,
    ) -> Profile:
        """Watches the devices for some seconds, while sessions go on; one profile at a time."""
        if turn.locked():
            raise ResourceExhausted("a profile is being taken already: try again later", _LONGEST_S)
        async with turn:
            path = directory / time.strftime("%Y%m%d-%H%M%S", time.gmtime())
            try:
                await asyncio.to_thread(_start, path)
                try:
                    await asyncio.sleep(seconds)
                finally:
                    # Also if the client has gone; the thread goes on to its end either way.
                    await asyncio.shield(asyncio.to_thread(_stop))
            except (OSError, RuntimeError) as error:
                raise InternalError(f"no profile could be taken into {path}: {error}") from error
        return Profile(path=str(path), seconds=seconds)

    return router


def _start(path: Path) -> None:
    import jax

    path.mkdir(parents=True, exist_ok=True)
    jax.profiler.start_trace(path)


def _stop() -> None:
    import jax

    jax.profiler.stop_trace()
