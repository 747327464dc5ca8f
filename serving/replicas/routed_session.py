"""One session that is served by a replica, and by another one if that is lost."""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from s2l_jax.core.errors import InternalError, ResourceExhausted, S2LError, Unavailable
from s2l_jax.core.ids import SessionId
from s2l_jax.core.outcome import Ack, SessionStats
from s2l_jax.core.params import SamplingParams
from s2l_jax.orchestrator.events import DoneEvent, FailedEvent, ProgressEvent, SinkEvent
from serving.protos.s2l.v1 import streaming_pb2 as pb
from serving.replicas.output import RoutedOutput
from serving.replicas.protocol import ReplicaLost, Replicas
from serving.wire import content_to_wire, params_to_wire

_log = logging.getLogger(__name__)
ANSWER_S = 30.0  # for a replica to answer an event
MOST_MOVES = 3
"""A session that lost more replicas than this without a token in between may be the reason: it is not moved again."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a client wants of a session, beside its context.

    Attributes:
      session_id: its name.
      params: how to sample; with a seed, so that every replica draws the same.
      tenant: whose it is.
      priority: as in `Orchestrator.open`.
      first_token_within_s: likewise.
    """

    session_id: SessionId
    params: SamplingParams
    tenant: str
    priority: int
    first_token_within_s: float | None

    @property
    def needs_own_output(self) -> bool:
        """True if the next token depends on which of those before it are output."""
        params = self.params
        return bool(params.presence_penalty or params.frequency_penalty or params.constraint is not None)


class RoutedSession:
    """Keeps the tokens of a session, so that any replica can go on with it.

    All of it runs in the event loop of the replicas. One task reads what a replica answers; `_turn` is held while an
    event of the client is applied and while the session moves. A replica that is lost is noticed by whichever of the
    two comes first.

    Args:
      ask: what the client wants.
      replicas: who may serve it.
      output: of the session.
      emit: takes what becomes of the session; the last one is a `DoneEvent` or a `FailedEvent`.
      on_moved: called for each move.
      clock: seconds, rising.
    """

    def __init__(
        self,
        ask: Ask,
        replicas: Replicas,
        output: RoutedOutput,
        emit: Callable[[SinkEvent], None],
        on_moved: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._ask = ask
        self._replicas = replicas
        self._output = output
        self._emit = emit
        self._on_moved = on_moved
        self._clock = clock
        self._turn = asyncio.Lock()
        self._tokens = np.empty(0, np.int32)
        self._is_final = False
        self._seq = 0
        self._opened_s = clock()
        self._final_s: float | None = None
        self._first_token_s: float | None = None
        self._done = pb.Done()
        self._moves = 0
        self._lost: set[int] = set()
        self._replica = -1
        self._inner_id = ""
        self._skip = 0
        self._answers: AsyncGenerator[pb.SessionResponse] | None = None
        self._reader: asyncio.Task[None] | None = None

    # Events of the client

    async def open(self, tokens: np.ndarray, *, final: bool) -> Ack:
        """Finds a replica and opens the session there.

        Args:
          tokens: int32 `[n]`, the beginning of the context.
          final: it is complete.

        Raises:
          Unavailable: there is no replica.
          S2LError: the replica refuses the session.
        """
        async with self._turn:
            self._change(tokens, final=final)
            accepted = await self._find()
            self._seq = 1
            self._read_on()
        return Ack(self._ask.session_id, 1, accepted.context_tokens, 0, 0)

    async def update(self, keep: int, tail: np.ndarray, *, final: bool) -> Ack:
        """Replaces what follows the first `keep` tokens of the context with `tail`, int32 `[n]`.

        Raises:
          S2LError: the replica refuses the event, which has changed nothing.
        """
        async with self._turn:
            before, was_final = self._tokens, self._is_final
            tokens = np.concatenate([before[:keep], tail])
            self._change(tokens, final=final)
            update = pb.Update(keep_tokens=keep, content=content_to_wire(tail.tolist()), final=final)
            try:
                accepted = await self._send(pb.SessionRequest(update=update))
                kept, invalidated = accepted.kept_tokens, accepted.invalidated_tokens
            except (ReplicaLost, Unavailable) as error:
                kept, invalidated = _common(before, tokens), 0
                await self._move_for_client(error)
            except S2LError:
                self._tokens, self._is_final = before, was_final
                raise
            self._seq += 1
            return Ack(self._ask.session_id, self._seq, len(tokens), kept, invalidated)

    def stats(self) -> SessionStats:
        """What the session has cost, as far as its replica has said."""
        done, first_s, final_s = self._done, self._first_token_s, self._final_s
        return SessionStats(
            prompt_tokens=len(self._tokens),
            output_tokens=len(self._output.ids),
            computed_tokens=done.computed_tokens,
            reused_tokens=done.reused_tokens,
            restored_tokens=done.restored_tokens,
            recomputed_tokens=done.recomputed_tokens,
            invalidated_tokens=done.invalidated_tokens,
            preemptions=done.preemptions,
            ttft_open_s=None if first_s is None else first_s - self._opened_s,
            ttft_final_s=None if first_s is None or final_s is None else first_s - final_s,
        )

    async def close(self) -> None:
        """Lets go of the replica, which ends the session there."""
        await self._stop_reading()
        await self._leave()

    # What replicas say

    def _read_on(self) -> None:
        self._reader = asyncio.create_task(self._read(), name="s2l-routed-session")

    async def _stop_reading(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def _read(self) -> None:
        """Reads to the end of the session, whoever serves it."""
        try:
            while True:
                try:
                    await self._pass_on()
                    return
                except (ReplicaLost, Unavailable) as error:
                    if self._output.reason is not None:
                        self._emit(DoneEvent(self._output.reason, self.stats()))
                        return
                    async with self._turn:
                        await self._move(error)
        except S2LError as error:
            self._emit(FailedEvent(error))
        except Exception:  # noqa: BLE001 - a task's error would be seen by nobody
            _log.exception("session %s", self._ask.session_id, extra={"session": self._ask.session_id})
            self._emit(FailedEvent(InternalError("the session failed in the router")))
        finally:
            await self._leave()

    async def _pass_on(self) -> None:
        """Reads what the replica of now answers; returns once the session's last event is out."""
        assert self._answers is not None
        async for answer in self._answers:
            match answer.WhichOneof("event"):
                case "progress" if not self._output.ids:
                    self._emit(ProgressEvent(answer.progress.computed_tokens, answer.progress.context_tokens))
                case "token":
                    was_ended = self._output.reason is not None
                    self._take(answer.token)
                    if self._ask.params.stop and self._output.reason == "stop" and not was_ended:
                        await self._send(pb.SessionRequest(cancel=pb.Cancel()))  # it knows no stop strings
                case "done":
                    self._done = answer.done
                    self._emit(DoneEvent(self._output.reason or answer.done.finish_reason, self.stats()))
                    return
        raise ReplicaLost("its answer broke off")

    def _take(self, token: pb.Token) -> None:
        known = min(self._skip, len(token.ids))
        if known:
            # What a client has been told cannot be taken back.
            begin = len(self._output.ids) - self._skip
            if list(token.ids[:known]) != self._output.ids[begin : begin + known]:
                raise Unavailable("the session's server was lost, and another one began it differently: open it again")
            self._skip -= known
        for event in self._output.take(token, known):
            if self._first_token_s is None:
                self._first_token_s = self._clock()
            self._emit(event)
            self._moves = 0

    # Finding a replica

    async def _move_for_client(self, error: Exception) -> None:
        """As `_move`, for an event; if nobody takes the session, it ends with this event."""
        await self._stop_reading()
        try:
            await self._move(error)
        except S2LError as failure:
            self._emit(FailedEvent(failure))
            raise
        self._read_on()

    async def _move(self, error: Exception) -> None:
        """Goes on at another replica. Needs `_turn`.

        Raises:
          Unavailable: there is none, or too many have been lost.
        """
        self._lose(error)
        await self._leave()
        self._on_moved()
        await self._find()

    async def _find(self) -> pb.Accepted:
        """Opens the session, as it is now, at a replica that takes it. Needs `_turn`."""
        full: set[int] = set()
        refusal: ResourceExhausted | None = None
        while self._moves <= MOST_MOVES:
            self._inner_id = uuid.uuid4().hex
            tokens = np.concatenate([self._tokens, np.asarray(self._output.ids, np.int32)])
            try:
                self._replica = await self._replicas.choose(
                    self._inner_id, tokens.tolist(), self._lost | full, self._ask.tenant
                )
            except Unavailable:
                if refusal is None:
                    raise
                raise refusal from None
            try:
                return await self._open_at(tokens)
            except ResourceExhausted as error:
                full.add(self._replica)
                refusal = error
            except (ReplicaLost, Unavailable) as error:
                self._lose(error)
        raise Unavailable(f"{self._moves} servers were lost while they served this session: not again")

    async def _open_at(self, tokens: np.ndarray) -> pb.Accepted:
        answers = self._replicas.open(self._replica, self._request(tokens), self._ask.tenant)
        self._answers = answers
        try:
            async with asyncio.timeout(ANSWER_S):
                return (await anext(answers)).accepted
        except BaseException as error:
            await self._leave()
            if isinstance(error, TimeoutError | StopAsyncIteration):
                raise ReplicaLost(f"no answer ({error!r})") from error
            raise

    async def _send(self, request: pb.SessionRequest) -> pb.Accepted:
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._replicas.send(self._replica, self._inner_id, request)
        except TimeoutError as error:
            raise ReplicaLost(f"no answer within {ANSWER_S:g} s") from error

    def _lose(self, error: Exception) -> None:
        session_id = self._ask.session_id
        _log.warning(
            "session %s: replica %x is lost: %s", session_id, self._replica, error, extra={"session": session_id}
        )
        self._lost.add(self._replica)
        self._moves += 1

    def _request(self, tokens: np.ndarray) -> pb.SessionRequest:
        """The session as it is now.

        What was generated is context for whoever goes on with it, unless it has to be known as output: then all of it
        is generated again, and what is known is not passed on.
        """
        ask, output = self._ask, self._output
        had = 0 if ask.needs_own_output else len(output.ids)
        self._skip = len(output.ids) - had
        params = replace(ask.params, stop=(), max_tokens=ask.params.max_tokens - had)
        content: Sequence[int] = tokens[: len(self._tokens) + had].tolist()
        return pb.SessionRequest(
            open=pb.Open(
                session_id=self._inner_id,
                content=content_to_wire(content),
                params=params_to_wire(params),
                final=self._is_final,
                priority=ask.priority,
                first_token_within_s=ask.first_token_within_s or 0.0,
            )
        )

    async def _leave(self) -> None:
        """Lets go of the replica."""
        answers, self._answers = self._answers, None
        if answers is not None:
            self._replicas.ended(self._inner_id)
            with contextlib.suppress(Exception):  # what it says now is of no interest
                await answers.aclose()

    def _change(self, tokens: np.ndarray, *, final: bool) -> None:
        self._tokens = tokens
        if final and not self._is_final:
            self._is_final = True
            self._final_s = self._clock()


def _common(first: np.ndarray, second: np.ndarray) -> int:
    """Length of the longest common prefix of two int32 `[n]`."""
    length = min(len(first), len(second))
    different = np.flatnonzero(first[:length] != second[:length])
    return int(different[0]) if len(different) else length
