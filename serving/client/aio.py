"""The client for asyncio code. Belongs to the event loop it was made in."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Self, cast

import grpc
import grpc.aio

from s2l_jax.core.errors import FailedPrecondition, S2LError, Unavailable
from s2l_jax.core.params import SamplingParams
from serving.client.channel import (
    CHANNEL_OPTIONS,
    DEFAULT_TARGET,
    address_of,
    credentials_of,
    metadata_of,
    model_from_wire,
    stats_from_wire,
)
from serving.client.tls import ClientTls
from serving.client.transcript import Transcript
from serving.client.types import Accepted, Event, ModelInfo, Result, ServerStats, Token
from serving.protos.s2l.v1 import info_pb2, info_pb2_grpc, streaming_pb2_grpc
from serving.protos.s2l.v1 import streaming_pb2 as pb
from serving.status import Cancelled, from_status
from serving.wire import Content


def _error_of(error: grpc.aio.AioRpcError) -> S2LError:
    return from_status(error.code(), error.details(), error.trailing_metadata())


class AsyncClient:
    """Talks to one server from asyncio code.

    ```python
    async with AsyncClient("grpc://127.0.0.1:9000") as client, client.session() as session:
        await session.append("The sky is blue.")
        await session.finish()
        async for token in session.tokens():
            print(token.text, end="")
    ```

    Args:
      target: `grpc://HOST:PORT` or `HOST:PORT`, with TLS `grpcs://HOST:PORT`.
      timeout_s: deadline of each session and call that brings none of its own; None waits for ever.
      api_key: for servers that need one. Without TLS it can be read on its way.
      tls: certificates; None believes those that gRPC comes with.

    Raises:
      InvalidArgument: target, key or certificates are no such thing.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout_s: float | None = None,
        api_key: str | None = None,
        tls: ClientTls | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._metadata = metadata_of(api_key)
        address, credentials = address_of(target), credentials_of(target, tls)
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
        self._sessions = streaming_pb2_grpc.StreamingContextStub(self._channel)
        self._info = info_pb2_grpc.InfoStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; sessions still running on it are cancelled."""
        await self._channel.close()

    def session(
        self,
        params: SamplingParams | None = None,
        *,
        content: Content = None,
        session_id: str = "",
        final: bool = False,
        add_bos: bool = False,
        priority: int = 0,
        first_token_within_s: float | None = None,
        timeout_s: float | None = None,
    ) -> "AsyncSession":
        """A session, opened on entering its `async with` block and cancelled on leaving it unless it is done.

        Arguments are those of `Client.session`.
        """
        transcript = Transcript(time.perf_counter)
        deadline_s = self._timeout_s if timeout_s is None else timeout_s

        def open_request() -> pb.SessionRequest:
            return transcript.open(
                content,
                params,
                session_id=session_id,
                final=final,
                add_bos=add_bos,
                priority=priority,
                first_token_within_s=first_token_within_s,
            )

        return AsyncSession(self._sessions, transcript, open_request, deadline_s, self._metadata)

    async def generate(
        self,
        content: Content,
        params: SamplingParams | None = None,
        *,
        add_bos: bool = False,
        priority: int = 0,
        first_token_within_s: float | None = None,
        timeout_s: float | None = None,
    ) -> Result:
        """Sends a complete prompt and waits for the whole answer. Arguments are those of `session`."""
        async with self.session(
            params,
            content=content,
            final=True,
            add_bos=add_bos,
            priority=priority,
            first_token_within_s=first_token_within_s,
            timeout_s=timeout_s,
        ) as session:
            return await session.result()

    async def wait_ready(self, timeout_s: float) -> bool:
        """Waits until the server accepts connections; False if it does not within `timeout_s`."""
        try:
            await asyncio.wait_for(self._channel.channel_ready(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def model(self) -> ModelInfo:
        """What the server serves."""
        try:
            request = info_pb2.GetModelRequest()
            return model_from_wire(await self._info.GetModel(request, timeout=self._timeout_s, metadata=self._metadata))
        except grpc.aio.AioRpcError as error:
            raise _error_of(error) from error

    async def stats(self) -> ServerStats:
        """The server's counters."""
        try:
            request = info_pb2.GetStatsRequest()
            return stats_from_wire(await self._info.GetStats(request, timeout=self._timeout_s, metadata=self._metadata))
        except grpc.aio.AioRpcError as error:
            raise _error_of(error) from error


class AsyncSession:
    """One session; see `AsyncClient.session`.

    Requests return when they are handed to the connection: their answers come as `Accepted` events, and an error ends
    the session and is raised by whatever is called next. A task of its own receives, so that times are true.
    """

    def __init__(
        self,
        stub: streaming_pb2_grpc.StreamingContextStub,
        transcript: Transcript,
        open_request: Callable[[], pb.SessionRequest],
        timeout_s: float | None,
        metadata: tuple[tuple[str, str], ...],
    ) -> None:
        self._stub = stub
        self._metadata = metadata
        self._transcript = transcript
        self._open_request = open_request
        self._timeout_s = timeout_s
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._write_lock = asyncio.Lock()
        self._error: S2LError | None = None
        self._told: S2LError | None = None
        self._exhausted = False
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        request = self._open_request()
        self._call = self._stub.Session(timeout=self._timeout_s, metadata=self._metadata)
        self._call.add_done_callback(self._note_status)
        self._reader = asyncio.create_task(self._read(), name="s2l-client-reader")
        try:
            await self._send(lambda: request)
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stop()

    async def _stop(self) -> None:
        self._call.cancel()  # does nothing to a call that has ended
        if self._reader is not None:
            await asyncio.wait([self._reader])

    @property
    def session_id(self) -> str:
        """The session's id; empty until the server has chosen one."""
        return self._transcript.session_id

    @property
    def accepted(self) -> Mapping[int, Accepted]:
        """The server's answers so far, by number of event; a view that grows."""
        return MappingProxyType(self._transcript.accepted)

    async def append(self, content: Content, *, final: bool = False) -> int:
        """Puts content behind the context; `final` completes it. Returns the event's number."""
        return await self._send(lambda: self._transcript.append(content, final=final))

    async def update(self, content: Content, *, keep_tokens: int = 0, keep_chars: int = 0, final: bool = False) -> int:
        """Replaces the context but for its first `keep_chars` characters (text) or `keep_tokens` tokens (ids).

        Returns:
          The event's number.
        """
        return await self._send(
            lambda: self._transcript.update(content, keep_tokens=keep_tokens, keep_chars=keep_chars, final=final)
        )

    async def finish(self) -> int:
        """Declares the context complete: the answer starts. Returns the event's number."""
        return await self._send(self._transcript.finish)

    async def cancel(self) -> None:
        """Ends the session; `result` then says `cancelled`."""
        await self._send(self._transcript.cancel)

    async def events(self) -> AsyncIterator[Event]:
        """All events from here to the end of the session.

        Raises:
          S2LError: the session failed.
        """
        while not self._exhausted:
            event = await self._events.get()
            if event is None:
                self._exhausted = True
                break
            yield event
        if self._error is not None:
            raise self._error

    async def tokens(self) -> AsyncIterator[Token]:
        """Output as it comes, to the end of the session."""
        async for event in self.events():
            if isinstance(event, Token):
                yield event

    async def result(self) -> Result:
        """Waits for the end of the session.

        Raises:
          S2LError: the session failed.
        """
        async for _ in self.events():
            pass
        return self._transcript.result()

    async def _send(self, make: Callable[[], pb.SessionRequest]) -> int:
        if self._reader is None:
            raise FailedPrecondition("the session is not open yet: use it in an `async with` block")
        async with self._write_lock:
            if self._error is not None:
                raise self._error
            request = make()
            try:
                await self._call.write(request)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
                await asyncio.wait([self._reader])
                if self._transcript.done is None:
                    raise self._error or Unavailable("the stream has ended") from error
            return request.seq

    async def _read(self) -> None:
        try:
            while (response := await self._call.read()) is not grpc.aio.EOF:
                event = self._transcript.fold(response)
                if event is not None:
                    self._events.put_nowait(event)
            # An unfinished server must not wait for requests that will never come.
            with contextlib.suppress(asyncio.InvalidStateError):
                await self._call.done_writing()
        except grpc.aio.AioRpcError as error:
            self._error = self._told or _error_of(error)
        except asyncio.CancelledError:
            self._error = Cancelled("the session was cancelled by this client")
        finally:
            self._events.put_nowait(None)

    def _note_status(self, call: grpc.aio.StreamStreamCall) -> None:
        """Keeps how the server has ended the call, which a write that fails just then makes INTERNAL (grpc #36066)."""
        code = _known(call.code())
        if code is not grpc.StatusCode.OK:
            self._told = from_status(code, _known(call.details()), _known(call.trailing_metadata()))


def _known[T](value: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that has nothing to wait for."""
    try:
        value.send(None)
    except StopIteration as done:
        return cast(T, done.value)
    raise AssertionError("the call has not ended")
