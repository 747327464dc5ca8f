"""Streaming context over a WebSocket: `/v1/stream`, one session per connection, as gRPC has one per stream."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from s2l_jax.core.errors import InvalidArgument, S2LError
from serving.http.backend import Backend
from serving.http.door import account_of
from serving.http.errors import defect, error_body, http_status, invalid_request
from serving.http.session_events import SessionEvent, event_of
from serving.http.session_requests import SocketRequest
from serving.protos.s2l.v1 import streaming_pb2 as pb
from serving.session_stream import SessionStream
from serving.status import Cancelled
from serving.writer import SlowReader, Writer

_NORMAL = 1000
_FORBIDDEN = 1008
_PRIVATE = 4000  # codes from here on are ours: this and the HTTP status


def stream_routes(backend: Backend) -> APIRouter:
    """The route of the WebSocket."""
    router = APIRouter()

    @router.websocket("/v1/stream")
    async def stream(socket: WebSocket) -> None:
        """Runs one session from `open` to `done` or `error`; a client that goes cancels it."""
        if not _may_open(socket, backend.origins):
            await socket.close(_FORBIDDEN)
            return
        await socket.accept()

        async def send(message: pb.SessionResponse) -> None:
            await socket.send_text(event_of(message).to_json())

        writer = Writer(send, backend.send_timeout_s)
        default_max_tokens = backend.model.default_max_tokens
        account = account_of(socket)
        session = SessionStream(account, backend.pool, default_max_tokens, writer, backend.open_timeout_s)
        try:
            try:
                await session.run(_requests(socket, default_max_tokens))
                code = _NORMAL
            except (WebSocketDisconnect, SlowReader, Cancelled):
                raise
            except S2LError as error:
                code = await _fail(socket, error, backend.send_timeout_s)
            except Exception as error:  # noqa: BLE001 - the client is told of it, and the log
                code = await _fail(socket, defect(error, "/v1/stream"), backend.send_timeout_s)
            async with asyncio.timeout(backend.send_timeout_s):
                await socket.close(code)
        except (WebSocketDisconnect, SlowReader, TimeoutError, Cancelled):
            pass  # the client has gone, or does not read: the connection is closed
        finally:
            writer.close()

    return router


async def _fail(socket: WebSocket, error: S2LError, timeout_s: float) -> int:
    """Sends an error, and returns the code to close with."""
    async with asyncio.timeout(timeout_s):
        await socket.send_text(SessionEvent(error=error_body(error).error).to_json())
    return _PRIVATE + http_status(error)


async def _requests(socket: WebSocket, default_max_tokens: int) -> AsyncIterator[pb.SessionRequest]:
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise Cancelled("the client has gone")
        text = message.get("text")
        if text is None:
            raise InvalidArgument("a message is JSON in a text frame, not in a binary one")
        try:
            request = SocketRequest.model_validate_json(text)
        except ValidationError as error:
            raise invalid_request(error.errors()) from error
        yield request.to_wire(default_max_tokens)


def _may_open(socket: WebSocket, origins: frozenset[str]) -> bool:
    """False for a page of another site: browsers let it open a WebSocket without asking the server first."""
    origin = socket.headers.get("origin")
    if origin is None or origins & {origin, "*"}:
        return True
    return urlsplit(origin).netloc == socket.headers.get("host")
