"""Runs a planned replay in real time, open loop: things arrive when they are due, however slow the server."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from s2l_jax.core.errors import S2LError
from s2l_jax.core.params import SamplingParams
from serving.client.types import Done, Token
from workloads.replay.rows import EventRow, SessionRow
from workloads.replay.schedule import PlannedSession
from workloads.replay.target import Piece, Target

INTERRUPTED = "interrupted"


@dataclass(slots=True)
class Measured:
    """What a replay saw.

    Attributes:
      sessions: every session that had arrived, in order of arrival.
      events: everything that happened, in order of time.
      wall_s: from the start to the end of the last session.
      interrupted: True if it was stopped before all sessions were done.
    """

    sessions: list[SessionRow] = field(default_factory=list)
    events: list[EventRow] = field(default_factory=list)
    wall_s: float = 0.0
    interrupted: bool = False


async def run_replay(
    planned: Sequence[PlannedSession],
    target: Target,
    stop: asyncio.Event,
    on_event: Callable[[EventRow], None] | None = None,
) -> Measured:
    """Replays all sessions and returns once each is done or has failed.

    Args:
      planned: what to send when.
      target: where to.
      stop: set it to end early; sessions that have arrived are cancelled and kept in the result.
      on_event: told of each event as it happens; must return quickly.
    """
    return await _Replay(target, on_event).run(planned, stop)


class _Replay:
    """One run: its clock, and what it has seen so far."""

    def __init__(self, target: Target, on_event: Callable[[EventRow], None] | None) -> None:
        self._target = target
        self._on_event = on_event
        self._measured = Measured()
        self._start_s = 0.0

    async def run(self, planned: Sequence[PlannedSession], stop: asyncio.Event) -> Measured:
        self._start_s = time.monotonic()
        everything = asyncio.create_task(self._all(planned))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([everything, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            everything.cancel()
            await asyncio.wait([everything])
        measured = self._measured
        measured.interrupted = everything.cancelled()
        if not measured.interrupted:
            everything.result()
        measured.wall_s = self._now_s()
        measured.sessions.sort(key=lambda row: row.arrival_s)
        measured.events.sort(key=lambda event: event.t_s)
        return measured

    async def _all(self, planned: Sequence[PlannedSession]) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for session in planned:
                    tasks.create_task(self._session(session))
        except ExceptionGroup as group:  # a defect of ours, not of a session
            raise group.exceptions[0] from None

    def _now_s(self) -> float:
        return time.monotonic() - self._start_s

    def _log(self, event: EventRow) -> None:
        self._measured.events.append(event)
        if self._on_event is not None:
            self._on_event(event)

    async def _session(self, planned: PlannedSession) -> None:
        await self._sleep_until(planned.arrival_s)
        row = SessionRow(planned.session, planned.question, planned.arrival_s, planned.complete_s)
        row.chunks = len(planned.chunks_s)
        self._measured.sessions.append(row)
        self._log(EventRow(planned.session, self._now_s(), "arrival", planned.arrival_s))
        try:
            await self._exchange(planned, row)
        except S2LError as error:
            row.error = f"{error.status}: {error}"
        except asyncio.CancelledError:
            row.error = INTERRUPTED
            raise
        finally:
            row.done_s = self._now_s()
            note = row.error or row.finish_reason
            self._log(EventRow(planned.session, row.done_s, "error" if row.error else "done", note=note))

    async def _exchange(self, planned: PlannedSession, row: SessionRow) -> None:
        """Sends the session's pieces, folds its replies into the row."""
        params = SamplingParams(max_tokens=planned.max_tokens)
        last_token_s = 0.0
        replies = self._target.run(planned.session, params, self._pieces(planned, row))
        async with aclosing(replies) as stream:  # type: ignore[type-var]
            async for reply in stream:
                now_s = self._now_s()
                if isinstance(reply, Token):
                    if row.first_token_s is None:
                        row.first_token_s = now_s
                    last_token_s = now_s
                    row.output_tokens += len(reply.ids)
                    row.text += reply.text
                    self._log(EventRow(row.session, now_s, "token", size=len(reply.ids)))
                elif isinstance(reply, Done):
                    _fold_done(row, reply)
        if row.first_token_s is not None:
            row.ttft_final_s = row.first_token_s - row.last_chunk_s
            row.ttft_open_s = row.first_token_s - row.arrival_s
            if row.output_tokens > 1:
                row.tpot_s = (last_token_s - row.first_token_s) / (row.output_tokens - 1)

    async def _pieces(self, planned: PlannedSession, row: SessionRow) -> AsyncIterator[Piece]:
        for due_s, piece in planned.pieces:
            await self._sleep_until(due_s)
            if piece.final:
                self._measured.events.extend(EventRow(row.session, at_s, "chunk") for at_s in planned.chunks_s)
            now_s = self._now_s()
            row.send_lag_s = max(row.send_lag_s, now_s - due_s)
            self._log(EventRow(planned.session, now_s, piece.op, due_s, piece.size))
            yield piece

    async def _sleep_until(self, due_s: float) -> None:
        await asyncio.sleep(max(0.0, due_s - self._now_s()))


def _fold_done(row: SessionRow, done: Done) -> None:
    row.finish_reason = done.finish_reason
    row.prompt_tokens = done.prompt_tokens
    row.output_tokens = done.output_tokens
    row.computed_tokens = done.computed_tokens
    row.reused_tokens = done.reused_tokens
    row.invalidated_tokens = done.invalidated_tokens
    row.restored_tokens = done.restored_tokens
    row.recomputed_tokens = done.recomputed_tokens
    row.preemptions = done.preemptions
    row.server_ttft_open_s = done.ttft_open_s
    row.server_ttft_final_s = done.ttft_final_s
