"""All open sessions of an orchestrator, beside the schedulers that serve them."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

import numpy as np

from s2l_jax.core.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    ResourceExhausted,
    S2LError,
    Unavailable,
)
from s2l_jax.core.ids import SessionId
from s2l_jax.core.outcome import Ack, Output, SessionStats
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import StepPlan, StepResult
from s2l_jax.core.records import fields_of
from s2l_jax.core.session import SessionState
from s2l_jax.orchestrator.config import OrchestratorConfig
from s2l_jax.orchestrator.context import Edit
from s2l_jax.orchestrator.counters import Counters, Ending, OrchestratorStats, engine_stats, sum_of
from s2l_jax.orchestrator.events import ProgressEvent
from s2l_jax.orchestrator.failures import Failures, MakeError
from s2l_jax.orchestrator.fleet import Fleet
from s2l_jax.orchestrator.masks import Constrained
from s2l_jax.orchestrator.member import EngineUnit, Member
from s2l_jax.orchestrator.open_session import OpenSession
from s2l_jax.orchestrator.rate import CompletionRate
from s2l_jax.orchestrator.record import Record
from s2l_jax.orchestrator.transfers import Transfer
from s2l_jax.transport.protocol import KVTransport


class Registry:
    """Open sessions, their schedulers, and what is counted about them.

    Ownership: `lock` guards all schedulers and everything in here. It is held for bookkeeping only, never while text is
    tokenized, a step runs, pages move, or a sink is called. Every method needs it, and none blocks.

    A session is in the registry exactly as long as it is open in the scheduler of its member; while its pages move it
    is open at their source as well. Whoever takes it out owes its sink the last event, once the lock is released.

    Attributes:
      lock: see above.
      fleet: the engines.
      empty: notified when the last session has ended.
      counters: what has been done so far.
      refusal: why no session may be opened, if so.
      failure: why nothing at all is possible any more, if so.
    """

    def __init__(self, units: Sequence[EngineUnit], transport: KVTransport, config: OrchestratorConfig) -> None:
        self.lock = threading.Lock()
        self.fleet = Fleet(units, transport, self.lock, sends_ahead=config.send_ahead)
        self.empty = threading.Condition(self.lock)
        self.counters = Counters()
        self.refusal: str | None = None
        self.failure: str | None = None
        self._config = config
        # In order of opening, so the first one reaches its deadline first.
        self._sessions: dict[SessionId, OpenSession] = {}
        # Streams whose context is not complete; the one without an event for the longest time is first.
        self._last_event_s: OrderedDict[SessionId, float] = OrderedDict()
        self._waiting: set[SessionId] = set()
        self._rate = CompletionRate(config.retry_after_s)

    # Events of clients

    def check_room(self, now_s: float) -> None:
        """Raises Unavailable or ResourceExhausted unless a session may be opened."""
        refusal = self.failure or self.refusal
        if refusal is not None:
            raise Unavailable(refusal)
        if len(self._sessions) >= self._config.max_sessions:
            self._refuse(f"all {self._config.max_sessions} sessions are in use", now_s)
        if len(self._waiting) >= self._config.max_waiting:
            self._refuse(f"{len(self._waiting)} sessions wait for their first token already", now_s)

    def open(
        self,
        session: OpenSession,
        tokens: np.ndarray,
        params: SamplingParams,
        *,
        final: bool,
        tenant: str,
        priority: int,
        deadline_s: float | None,
    ) -> Ack:
        """Opens a session; errors are those of `check_room` and of `Scheduler.open`."""
        self.check_room(session.open_s)
        if session.id in self._sessions:
            raise AlreadyExists(f"session {session.id!r} is open already: choose another id")
        members = self.fleet.for_prompt(tokens, tenant)
        member = next((m for m in members if m.scheduler.open_sessions < m.scheduler.config.max_sessions), None)
        if member is None:
            self._refuse(f"all {self.fleet.prompt_rows} sessions are in use", session.open_s)
        now_s = session.open_s
        ack = member.scheduler.open(
            session.id, tokens, params, now_s, final=final, tenant=tenant, priority=priority, deadline_s=deadline_s
        )
        record = Record(params, tenant=tenant, priority=priority, deadline_s=deadline_s, open_s=now_s)
        record.opened(member.scheduler.session(session.id).seed)
        record.changed(0, tokens, ack, now_s, final=final)
        session.member, session.record = member, record
        self._sessions[session.id] = session
        self.counters.sessions_opened += 1
        self._note_event(session, now_s, final=final)
        return ack

    def find(self, session_id: str) -> OpenSession:
        """The open session of this id.

        Raises:
          NotFound: there is none.
          Unavailable: the engine thread has ended.
        """
        if self.failure is not None:
            raise Unavailable(self.failure)
        session = self._sessions.get(SessionId(session_id))
        if session is None:
            raise _not_open(session_id)
        return session

    def check_event(self, session: OpenSession, seq: int, now_s: float) -> Ack | None:
        """Answers an event that is a repeat, returns None for one that must be applied.

        Raises:
          NotFound: the session has ended.
          InvalidArgument: events in between are missing.
          FailedPrecondition: the context was complete already.
        """
        if not self.is_open(session):
            raise _not_open(session.id)
        state = session.member.scheduler.session(session.id)
        if session.id in self._last_event_s:
            self._touch(session.id, now_s)
        if state.is_repeat(seq):
            return state.repeated_ack(seq)
        if state.is_final:
            raise FailedPrecondition(f"session {session.id!r}: the context was declared complete, it cannot change")
        return None

    def apply(self, session: OpenSession, edit: Edit, now_s: float, *, seq: int, final: bool) -> Ack:
        """Applies an edit; errors are those of `Scheduler.update`."""
        if not self.is_open(session):
            raise _not_open(session.id)
        scheduler = session.member.scheduler
        ack = scheduler.update(session.id, edit.tail, now_s, keep=edit.keep, final=final, seq=seq)
        session.record.changed(edit.keep, edit.tail, ack, now_s, final=final)
        self.fleet.transfers.ahead.cut(session, ack.kept_tokens)
        self._note_event(session, now_s, final=final)
        return ack

    def end_by_client(self, session_id: str, seq: int, now_s: float) -> tuple[OpenSession, SessionStats] | None:
        """Ends a session unless it has ended, or the event is a repeat of another.

        Raises:
          InvalidArgument: events in between are missing.
        """
        session = self._sessions.get(SessionId(session_id))
        if session is None or session.member.scheduler.session(session.id).is_repeat(seq):
            return None
        return self.end(session, "cancelled", now_s)

    # Ends

    def is_open(self, session: OpenSession) -> bool:
        """True until the session has ended, also if another one of its id has been opened since."""
        return self._sessions.get(session.id) is session

    def end(self, session: OpenSession, ending: Ending, now_s: float) -> tuple[OpenSession, SessionStats] | None:
        """Ends a session and takes it out; None if it has ended already."""
        if not self.is_open(session):
            return None
        return self._remove(session.id, ending, self.leave(session)[0], now_s)

    def end_expired(self, now_s: float) -> Failures:
        """Ends the sessions that have been idle or open for too long."""
        ended: Failures = []
        while self._last_event_s and self._idle_end_s() <= now_s:
            error: S2LError = DeadlineExceeded(
                f"no event came for {self._config.idle_timeout_s:g} s, and the context was not complete: finish the "
                "context, or send an empty append to keep the stream open"
            )
            ended.append((self._fail(next(iter(self._last_event_s)), now_s), error))
        while self._sessions and self._deadline_s() <= now_s:
            limit_s = self._config.session_deadline_s
            error = DeadlineExceeded(f"the session was open for {limit_s:g} s, the longest allowed")
            ended.append((self._fail(next(iter(self._sessions)), now_s), error))
        return ended

    def end_all(self, make_error: MakeError, now_s: float) -> Failures:
        """Ends every session."""
        return [(self._fail(session_id, now_s), make_error()) for session_id in list(self._sessions)]

    def abandon_all(self, failure: str) -> Failures:
        """Lets go of every session but not in a scheduler, whose state is in doubt; nothing is possible after."""
        sessions = list(self._sessions.values())
        self.failure = failure
        self.counters.sessions_failed += len(sessions)
        self._sessions.clear()
        self._last_event_s.clear()
        self._waiting.clear()
        self.empty.notify_all()
        return [(session, Unavailable(failure)) for session in sessions]

    # Steps

    def plan(self, member: Member, now_s: float) -> StepPlan | None:
        """A member's next step, or None."""
        self.fleet.place_waiting(now_s)
        return member.scheduler.plan(now_s)

    def constrained(self, member: Member, plan: StepPlan) -> list[Constrained]:
        """Samples of a member's plan that need a mask."""
        found = []
        for index, (session_id, _, params, *_) in enumerate(fields_of(plan.samples)):
            if params.constraint is not None:
                state = member.scheduler.session(session_id)
                output = state.tokens.view[state.prompt_tokens :]
                found.append(Constrained(index, self._sessions[session_id], output))
        return found

    def commit(self, member: Member, result: StepResult, now_s: float) -> list[tuple[OpenSession, Output]]:
        """Takes a step's result; sessions that end with it are taken out, others may have to go elsewhere."""
        outputs: list[tuple[OpenSession, Output]] = []
        for output in member.scheduler.commit(result, now_s):
            session = self._sessions[output.session_id]
            self._waiting.discard(output.session_id)
            outputs.append((session, output))
            if output.stats is not None:
                ending: Ending = "failed" if output.finish_reason == "error" else "completed"
                self._remove(output.session_id, ending, output.stats, now_s)
                continue
            session.record.sampled(output.token.token_id, now_s)
            if member.role == "prefill" and member.scheduler.session(session.id).state is SessionState.HANDOFF:
                self.fleet.transfers.waiting.append(session)
        if member.role == "prefill":
            for session_id, *_ in fields_of(result.plan.chunks):
                found = self._sessions.get(session_id)
                if found is not None and found.member is member:
                    self.fleet.send_ahead(found)
        self.counters.steps += 1
        self.counters.step_tokens += result.plan.tokens
        self.counters.tokens_output += len(outputs)
        return outputs

    def progress(self, member: Member, plan: StepPlan, now_s: float) -> list[tuple[OpenSession, ProgressEvent]]:
        """Progress worth reporting after a step: of sessions that computed context and have no output yet."""
        events = []
        for session_id, *_ in fields_of(plan.chunks):
            session = self._sessions.get(session_id)
            if session is None or session.member is not member:
                continue
            if now_s - session.progress_s < self._config.progress_interval_s:
                continue
            state = member.scheduler.session(session.id)
            if state.output_tokens == 0:
                session.progress_s = now_s
                events.append((session, ProgressEvent(state.landed, state.prompt_tokens)))
        return events

    def arrive_if_complete(self, transfer: Transfer, now_s: float) -> None:
        """A part of a session's move is done; if it was the last one, the session goes on."""
        if self.fleet.transfers.is_complete(transfer):
            self.counters.handoffs += 1
            self.counters.handoff_blocks += transfer.blocks
            transfer.target.scheduler.arrive(transfer.session.id, now_s)
            transfer.target.work.notify_all()

    # What recovery needs

    def sessions_of(self, member: Member) -> list[OpenSession]:
        """Open sessions that a member serves."""
        return [session for session in self._sessions.values() if session.member is member]

    def leave(self, session: OpenSession) -> tuple[SessionStats, int]:
        """Closes a session in whatever schedulers it is open; returns its counters, and how many tokens had KV."""
        self.fleet.transfers.drop(session)
        stats, lost = self.state_of(session)
        if session.member.is_alive:
            session.member.scheduler.cancel(session.id)
        return stats, lost

    def state_of(self, session: OpenSession) -> tuple[SessionStats, int]:
        """Counters of a session, and how many of its tokens have had KV."""
        try:
            state = session.member.scheduler.session(session.id)
        except NotFound:  # a scheduler that broke off in the middle of something
            return session.record.stats(), 0
        return state.stats(), state.lost

    def remove(self, session: OpenSession, ending: Ending, stats: SessionStats, now_s: float) -> None:
        """Takes out a session that is open in no scheduler."""
        self._remove(session.id, ending, stats, now_s)

    def retry_after_s(self, now_s: float) -> float:
        """Seconds after which trying again is sensible."""
        return self._rate.retry_after_s(now_s)

    # Views

    def wait_s(self, now_s: float, longest_s: float) -> float:
        """Seconds until a time-out is due, `longest_s` at most."""
        due_s = now_s + longest_s
        if self._last_event_s:
            due_s = min(due_s, self._idle_end_s())
        if self._sessions:
            due_s = min(due_s, self._deadline_s())
        return max(0.0, due_s - now_s)

    def is_empty(self) -> bool:
        """True if no session is open."""
        return not self._sessions

    def stats(self) -> OrchestratorStats:
        """A snapshot."""
        engines = tuple(engine_stats(member, self.fleet.transfers) for member in self.fleet.members)
        working = [engine.scheduler for engine in engines if engine.failure is None]
        return OrchestratorStats(
            replace(self.counters),
            len(self._sessions),
            len(self._waiting),
            sum_of(working or [engine.scheduler for engine in engines]),
            engines,
        )

    def _note_event(self, session: OpenSession, now_s: float, *, final: bool) -> None:
        if final:
            self._last_event_s.pop(session.id, None)
            self._waiting.add(session.id)
        else:
            self._touch(session.id, now_s)
        session.member.work.notify_all()

    def _touch(self, session_id: SessionId, now_s: float) -> None:
        self._last_event_s[session_id] = now_s
        self._last_event_s.move_to_end(session_id)

    def _idle_end_s(self) -> float:
        return next(iter(self._last_event_s.values())) + self._config.idle_timeout_s

    def _deadline_s(self) -> float:
        return next(iter(self._sessions.values())).open_s + self._config.session_deadline_s

    def _fail(self, session_id: SessionId, now_s: float) -> OpenSession:
        return self._remove(session_id, "failed", self.leave(self._sessions[session_id])[0], now_s)[0]

    def _remove(
        self, session_id: SessionId, ending: Ending, stats: SessionStats, now_s: float
    ) -> tuple[OpenSession, SessionStats]:
        session = self._sessions.pop(session_id)
        self.fleet.transfers.ahead.drop(session)
        self._last_event_s.pop(session_id, None)
        self._waiting.discard(session_id)
        self._rate.record(now_s)
        self.counters.count_end(ending, stats)
        if self.fleet.transfers.waiting:
            self.fleet.wake()
        if not self._sessions:
            self.empty.notify_all()
        return session, stats

    def _refuse(self, what: str, now_s: float) -> NoReturn:
        self.counters.sessions_refused += 1
        retry_after_s = self.retry_after_s(now_s)
        raise ResourceExhausted(f"{what}: try again in {retry_after_s:.2g} s", retry_after_s)


def _not_open(session_id: str) -> NotFound:
    return NotFound(f"session {session_id!r} is not open: it was never opened, or it has ended")
