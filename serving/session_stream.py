"""One session per stream, whatever the stream runs over: gRPC or a WebSocket."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future

from s2l_jax.core.errors import DeadlineExceeded, FailedPrecondition, InternalError, InvalidArgument, S2LError
from s2l_jax.core.outcome import Ack
from s2l_jax.orchestrator.events import DoneEvent, FailedEvent
from serving.outbox import Outbox
from serving.protos.s2l.v1 import streaming_pb2 as pb
from serving.session_responses import accepted_of, response_of
from serving.tenants.account import Account
from serving.wire import content_from_wire, params_from_wire
from serving.writer import Writer


class SessionStream:
    """One stream: a task applies requests in order, the caller of `run` itself writes events.

    `_turn` is held from the start of a request to its acknowledgement, so an acknowledgement always comes before the
    output that its event set off. Whichever way the stream ends, its session ends.

    Args:
      account: whose session it is.
      pool: runs what tokenizes.
      default_max_tokens: output tokens of a session that names no limit.
      writer: takes the responses.
      open_timeout_s: time for the first event to come; from then on, the orchestrator's limits hold.
    """

    def __init__(
        self,
        account: Account,
        pool: Executor,
        default_max_tokens: int,
        writer: Writer[pb.SessionResponse],
        open_timeout_s: float,
    ) -> None:
        self._account = account
        self._pool = pool
        self._default_max_tokens = default_max_tokens
        self._writer = writer
        self._open_timeout_s = open_timeout_s
        self._outbox = Outbox()
        self._turn = asyncio.Lock()
        self._in_flight: Future[Ack] | None = None
        self._open_ack: Ack | None = None
        self._is_final = False
        self._last_seq = 0
        self._cancel_seq: int | None = None
        self._defect: Exception | None = None

    async def run(self, requests: AsyncIterator[pb.SessionRequest]) -> None:
        """Returns after `Done`.

        Raises:
          S2LError: the stream failed; `requests` may raise one, too.
        """
        receiver = asyncio.create_task(self._receive(requests), name="s2l-stream-receiver")
        try:
            await self._send()
        finally:
            receiver.cancel()
            self._close()

    async def _send(self) -> None:
        while True:
            event = await self._outbox.get()
            async with self._turn:
                # Taking the turn also means that nothing is being written while the call's status is sent.
                if isinstance(event, FailedEvent):
                    raise self._defect or event.error
                if isinstance(event, DoneEvent) and self._cancel_seq is not None:
                    await self._writer.write(self._cancel_accepted(event))
                await self._writer.write(response_of(event))
            if isinstance(event, DoneEvent):
                return

    async def _receive(self, requests: AsyncIterator[pb.SessionRequest]) -> None:
        try:
            await self._apply(await self._first(requests))
            async for request in requests:
                await self._apply(request)
            if not self._is_final:
                self._cancel_session()
        except S2LError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - the handler raises it
            self._defect = error
            self._fail(InternalError("the stream's receiver failed"))

    async def _first(self, requests: AsyncIterator[pb.SessionRequest]) -> pb.SessionRequest:
        try:
            async with asyncio.timeout(self._open_timeout_s):
                return await anext(requests)
        except TimeoutError:
            raise DeadlineExceeded(f"the stream's first event did not come within {self._open_timeout_s:g} s") from None
        except StopAsyncIteration:
            raise InvalidArgument("the stream ended before its first event, which must be `open`") from None

    def _fail(self, error: S2LError) -> None:
        self._outbox.fail(error)
        # At once, not when a client that does not read lets the status through.
        self._cancel_session()

    async def _apply(self, request: pb.SessionRequest) -> None:
        if self._outbox.is_ended:
            return
        if request.WhichOneof("event") == "cancel":
            # Takes effect even while a client that does not read keeps an event from being written.
            self._cancel(request.seq)
            return
        async with self._turn:
            if self._outbox.is_ended:
                return
            ack = await self._call(request)
            self._last_seq = max(self._last_seq, ack.seq)
            await self._writer.write(accepted_of(ack))

    async def _call(self, request: pb.SessionRequest) -> Ack:
        kind = request.WhichOneof("event")
        if self._open_ack is None:
            if kind != "open":
                raise FailedPrecondition(f"the first event of a stream must be `open`, not `{kind or 'nothing'}`")
            if request.seq > 1:
                raise InvalidArgument(f"seq is {request.seq}, but the first event has number 1")
            return await self._in_pool(lambda: self._open(request.open))
        session_id = self._open_ack.session_id
        match kind:
            case "open":
                return self._reopen(request.seq)
            case "append":
                append, content = request.append, content_from_wire(request.append.content)
                self._is_final |= append.final
                return await self._in_pool(
                    lambda: self._account.append(session_id, content, final=append.final, seq=request.seq)
                )
            case "update":
                self._is_final |= request.update.final
                return await self._in_pool(lambda: self._update(session_id, request.update, request.seq))
            case "finish":
                self._is_final = True
                return await self._in_pool(lambda: self._account.finish(session_id, seq=request.seq))
            case _:
                raise InvalidArgument("the request has no event: set open, append, update, finish or cancel")

    def _open(self, wire: pb.Open) -> Ack:
        self._is_final = wire.final
        self._open_ack = self._account.open(
            sink=self._outbox.sink,
            params=params_from_wire(wire.params, default_max_tokens=self._default_max_tokens),
            content=content_from_wire(wire.content),
            session_id=wire.session_id or None,
            final=wire.final,
            add_bos=wire.add_bos,
            priority=wire.priority,
            first_token_within_s=wire.first_token_within_s,
        )
        return self._open_ack

    def _reopen(self, seq: int) -> Ack:
        if seq != 1 or self._open_ack is None:
            raise FailedPrecondition("the session of this stream is open already: one stream, one session")
        return self._open_ack

    def _update(self, session_id: str, wire: pb.Update, seq: int) -> Ack:
        return self._account.update(
            session_id,
            content_from_wire(wire.content),
            keep_tokens=wire.keep_tokens,
            keep_chars=wire.keep_chars,
            final=wire.final,
            seq=seq,
        )

    def _cancel(self, seq: int) -> None:
        if self._open_ack is None:
            raise FailedPrecondition("the first event of a stream must be `open`, not `cancel`")
        self._account.cancel(self._open_ack.session_id, seq=seq)
        self._cancel_seq = seq or self._last_seq + 1

    def _cancel_accepted(self, event: DoneEvent) -> pb.SessionResponse:
        assert self._open_ack is not None and self._cancel_seq is not None
        tokens = event.stats.prompt_tokens
        return accepted_of(Ack(self._open_ack.session_id, self._cancel_seq, tokens, tokens, 0))

    async def _in_pool(self, function: Callable[[], Ack]) -> Ack:
        self._in_flight = self._pool.submit(function)
        return await asyncio.wrap_future(self._in_flight)

    def _close(self) -> None:
        """Ends the session, also one that a thread of the pool is just opening."""
        future = self._in_flight
        if future is not None and not future.done() and not future.cancel():
            future.add_done_callback(lambda _: self._cancel_session())
        else:
            self._cancel_session()

    def _cancel_session(self) -> None:
        if self._open_ack is not None and not self._outbox.is_ended:
            self._account.cancel(self._open_ack.session_id)
