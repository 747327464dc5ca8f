"""A server on the network, through the client library."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from s2l_jax.core.errors import S2LError, Unavailable
from s2l_jax.core.params import SamplingParams
from serving.client import AsyncClient, AsyncSession
from serving.client.types import Event as Reply
from workloads.replay.target import Piece, TargetCounters, TargetInfo

_CONNECT_TIMEOUT_S = 10.0


class GrpcTarget:
    """Sends sessions to `grpc://HOST:PORT`."""

    def __init__(self, address: str) -> None:
        self.name = address
        self._run = uuid.uuid4().hex[:6]  # two replays of one trace may use one server at the same time
        self._client: AsyncClient

    async def __aenter__(self) -> Self:
        self._client = AsyncClient(self.name)
        if not await self._client.wait_ready(_CONNECT_TIMEOUT_S):
            await self._client.close()
            raise Unavailable(f"nobody answers at {self.name}; start a server with `s2l serve`, or check the address")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def info(self) -> TargetInfo:
        """What the server serves."""
        model = await self._client.model()
        return TargetInfo(model.name, model.vocab_size, model.policy, model.server_version)

    async def counters(self) -> TargetCounters:
        """The server's counters."""
        stats = await self._client.stats()
        return TargetCounters(stats.steps, stats.preemptions)

    async def run(self, session_id: str, params: SamplingParams, pieces: AsyncIterator[Piece]) -> AsyncIterator[Reply]:
        """See `Target.run`."""
        first = await anext(pieces)
        session_id = f"{session_id}-{self._run}"
        async with self._client.session(
            params, content=first.wire_content, session_id=session_id, final=first.final
        ) as session:
            sender = asyncio.create_task(_send(session, pieces))
            try:
                async for reply in session.events():
                    yield reply
            finally:
                sender.cancel()
                with contextlib.suppress(asyncio.CancelledError, S2LError):  # the session's error says more
                    await sender


async def _send(session: AsyncSession, pieces: AsyncIterator[Piece]) -> None:
    try:
        async for piece in pieces:
            if piece.op == "append":
                await session.append(piece.wire_content, final=piece.final)
            elif piece.op == "update":
                await session.update(
                    piece.wire_content, keep_tokens=piece.keep_tokens, keep_chars=piece.keep_chars, final=piece.final
                )
            else:
                await session.finish()
    except Exception:
        await session.cancel()  # else both sides would wait for ever
        raise
