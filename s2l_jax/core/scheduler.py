"""The scheduler: a deterministic state machine over sessions and blocks.

Events go in (`open`, `append`, `update`, `finish`, `cancel`), `plan(now_s)` says what the next engine step must do, and
`commit(result, now_s)` takes back what came of it. No clock, no thread, no device: real engine, simulator and property
tests drive this same object.

KV is accounted for when a step is *planned*. That is sound because an engine runs its steps in order: whatever a later
step reads has been written by then, and a block that changes hands in between is written by its new owner only after
its old owner's step has run.
"""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from s2l_jax.core.admission import Admitter
from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.costs import CostModel, PhysicalCosts
from s2l_jax.core.errors import FailedPrecondition, InvalidArgument
from s2l_jax.core.eviction import Evictor
from s2l_jax.core.flights import Flights
from s2l_jax.core.gaps import GapEstimator
from s2l_jax.core.handoff import Handoff, pack, unpack
from s2l_jax.core.ids import SessionId
from s2l_jax.core.inflow import Expected, Inflow
from s2l_jax.core.memory import Memory
from s2l_jax.core.outcome import Ack, HostStats, Output, SchedulerStats, SessionStats
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import SampledToken, StepPlan, StepResult
from s2l_jax.core.policy import find_policy
from s2l_jax.core.queues import Queues
from s2l_jax.core.reuse import cached_tokens, claim_shared
from s2l_jax.core.roster import Roster
from s2l_jax.core.session import Session, SessionState
from s2l_jax.core.step_builder import StepBuilder
from s2l_jax.core.tenants import TenantUsage
from s2l_jax.core.tokens import common_prefix

Tokens = Sequence[int] | np.ndarray
_NO_TOKENS = np.empty(0, np.int32)


class Scheduler:
    """Decides what an engine computes next. Not thread-safe: one caller at a time."""

    def __init__(self, config: SchedulerConfig, costs: CostModel | None = None) -> None:
        """Starts empty.

        Args:
          config: limits.
          costs: of this hardware and model; None takes those of `PhysicalCosts`.

        Raises:
          InvalidArgument: there is no such policy.
        """
        self.config = config
        self.costs: CostModel = costs or PhysicalCosts()
        self._usage = TenantUsage()
        self._gaps = GapEstimator()
        self._policy = find_policy(config.policy, self.costs, self._usage)
        self._memory = Memory(config)
        self._queues = Queues()
        self._admitter = Admitter(config, self._policy, self.costs)
        evictor = Evictor(config, self.costs, self._policy, self._memory, self._queues, self._gaps)
        self._builder = StepBuilder(config, self.costs, self._policy, self._memory, self._queues, evictor, self._usage)
        self._roster = Roster(config.max_sessions, self._usage)
        self._flights = Flights()
        self._random = random.Random(config.seed)
        self._steps = 0

    # Events

    def open(
        self,
        session_id: SessionId,
        tokens: Tokens,
        params: SamplingParams,
        now_s: float,
        *,
        final: bool = False,
        tenant: str = "",
        priority: int = 0,
        deadline_s: float | None = None,
    ) -> Ack:
        """Opens a session with the beginning of its context, which may be empty. Its sequence number is 1.

        Args:
          session_id: the caller's name for it.
          tokens: int32 `[n]`.
          params: how to sample.
          now_s: the time.
          final: the context is complete: a plain request.
          tenant: whose it is. KV is never shared between tenants, and the default policy gives each its share.
          priority: the default policy lets sessions of higher priority go first.
          deadline_s: time by which the first token is wanted, on the clock of `now_s`.

        Raises:
          AlreadyExists: a session of this id is open.
          ResourceExhausted: `max_sessions` are open.
          InvalidArgument: context and `max_tokens` exceed `max_model_len`, or a final context is empty.
        """
        roster = self._roster
        roster.check_new(session_id)
        roster.check_room()
        tokens = np.asarray(tokens, np.int32)
        self.config.check_length(len(tokens), params.max_tokens, final=final)
        session = Session(
            session_id,
            roster.take_row(),
            params,
            seed=self._random.getrandbits(63) if params.seed is None else params.seed,
            arrival=roster.arrivals,
            now_s=now_s,
            block_size=self.config.block_size,
            tenant=tenant,
            priority=priority,
            deadline_s=math.inf if deadline_s is None else deadline_s,
        )
        session.hands_over = self.config.role == "prefill"
        roster.enter(session)
        return self._apply(session, 0, tokens, now_s, final)

    def append(self, session_id: SessionId, tokens: Tokens, now_s: float, *, final: bool = False, seq: int = 0) -> Ack:
        """Adds tokens to the end of the context.

        Args:
          session_id: whose context grows.
          tokens: what is added, int32 `[n]`; may be empty.
          now_s: the time.
          final: the context is complete with this.
          seq: the event's number, one more than the last event's; 0 takes the next. A repeat changes nothing.

        Raises:
          NotFound: no such session.
          FailedPrecondition: the context was complete already.
          InvalidArgument: a gap in the sequence numbers, or too many tokens; the session is left as it was.
        """
        session = self.session(session_id)
        if session.is_repeat(seq):
            return session.repeated_ack(seq)
        return self._change(session, session.prompt_tokens, np.asarray(tokens, np.int32), now_s, final)

    def update(
        self, session_id: SessionId, tokens: Tokens, now_s: float, *, keep: int = 0, final: bool = False, seq: int = 0
    ) -> Ack:
        """Replaces the context past its first `keep` tokens. KV of the longest common prefix stays.

        Args and errors are those of `append`; also:

        Raises:
          InvalidArgument: `keep` exceeds the context.
        """
        session = self.session(session_id)
        if session.is_repeat(seq):
            return session.repeated_ack(seq)
        if not 0 <= keep <= session.prompt_tokens:
            raise InvalidArgument(f"update keeps {keep} tokens of a context of {session.prompt_tokens}")
        return self._change(session, keep, np.asarray(tokens, np.int32), now_s, final)

    def finish(self, session_id: SessionId, now_s: float, *, seq: int = 0) -> Ack:
        """Says that the context is complete; output starts when it is computed. Errors are those of `append`."""
        return self.append(session_id, _NO_TOKENS, now_s, final=True, seq=seq)

    def cancel(self, session_id: SessionId) -> SessionStats:
        """Ends a session in whatever state it is, also one that is in the step in flight.

        Raises:
          NotFound: no such session.
        """
        session = self.session(session_id)
        self._end(session)
        return session.stats()

    # Hand-off

    @property
    def inflow(self) -> Inflow:
        """Content that comes from other engines ahead of its session."""
        return self._memory.inflow

    def hand_over(self, session_id: SessionId) -> Handoff:
        """Describes a session that has its first token, for `adopt` of another scheduler.

        Its blocks stay its own until `cancel`, which is to follow once its KV has been copied.

        Raises:
          NotFound: no such session.
          FailedPrecondition: it has no first token yet, or this engine generates all of its tokens.
        """
        session = self.session(session_id)
        if session.state is not SessionState.HANDOFF or session.is_arriving:
            raise FailedPrecondition(f"session {session_id!r} is {session.state}: it cannot be handed over")
        return pack(session)

    def adopt(self, handoff: Handoff, coming: Sequence[Expected] = ()) -> np.ndarray | None:
        """Takes a session over from another scheduler, and allocates blocks for the KV that it brings.

        What is here already of its beginning is shared, and need not be brought.

        Args:
          handoff: what the other scheduler says of it.
          coming: what is expected of it (`inflow`), in order. As far as that continues what is here, it is the
            session's from now on and not expected any more.

        Returns:
          The blocks to copy its KV to, int32: to these go the last ones of `handoff.blocks`, as many as they are;
          `arrive` is to follow once all is there, also if there are none. None if there is not enough room, or
          `max_sessions` are open: the session stays where it is, and the caller tries again when something has ended
          here.

        Raises:
          AlreadyExists: a session of this id is open.
          InvalidArgument: it is longer than `max_model_len`.
        """
        roster, pool, size = self._roster, self._memory.pool, self.config.block_size
        roster.check_new(handoff.session_id)
        self.config.check_length(handoff.prompt_tokens, handoff.params.max_tokens, final=True)
        if roster.is_full:
            return None
        session = unpack(handoff, roster.take_row(), roster.arrivals, size)
        if handoff.computed:
            claim_shared(session, pool, None)
            session.reused = handoff.stats.reused_tokens
        continuing = self.inflow.continuing(session, coming, handoff.computed)
        here = len(session.blocks) + sum(len(expected.blocks) for expected in continuing)
        need = -(-handoff.computed // size) - here
        if -(-(handoff.computed + 1) // size) - here > pool.available:  # with one for the token that comes next
            session.keep_computed(0, pool)
            roster.rows.give(session.slot)
            return None
        session.is_arriving = True
        session.state = SessionState.HANDOFF
        for expected in continuing:
            session.add_blocks(self.inflow.take(expected))
        session.add_blocks(pool.allocate(need))
        session.computed = session.lost = handoff.computed
        session.ends.append(session.computed)
        if len(session.blocks):
            self._memory.admit(session)
        roster.enter(session)
        self._place(session, handoff.open_s if handoff.first_token_s is None else handoff.first_token_s)
        return session.blocks.view[here:]

    def resume(self, handoff: Handoff, now_s: float) -> None:
        """Takes over a session, in whatever state it was, whose KV is lost: it is computed again here.

        Its events go on where they were. With output already, it is not handed over a second time.

        Raises:
          AlreadyExists: a session of this id is open.
          ResourceExhausted: `max_sessions` are open.
          InvalidArgument: it is longer than `max_model_len`.
        """
        roster = self._roster
        roster.check_new(handoff.session_id)
        roster.check_room()
        self.config.check_length(handoff.prompt_tokens, handoff.params.max_tokens, final=handoff.final_s is not None)
        session = unpack(handoff, roster.take_row(), roster.arrivals, self.config.block_size)
        session.hands_over = self.config.role == "prefill" and handoff.first_token_s is None
        session.lost = min(handoff.lost, len(session.tokens))
        session.last_event_s = now_s
        roster.enter(session)
        self._place(session, now_s)
        session.hash_blocks()

    def arrive(self, session_id: SessionId, now_s: float) -> None:
        """The KV of an adopted session is in its blocks: it goes on.

        Raises:
          NotFound: no such session.
          FailedPrecondition: it has arrived already.
        """
        session = self.session(session_id)
        if not session.is_arriving:
            raise FailedPrecondition(f"session {session_id!r} is here already")
        session.is_arriving = False
        self._memory.land(session)
        self._place(session, now_s)

    # Steps

    @property
    def has_work(self) -> bool:
        """True if a plan would not be None, memory permitting."""
        return bool(self._queues)

    @property
    def is_ahead(self) -> bool:
        """True if all the work there is would be done ahead of time: nobody complete waits for any of it."""
        queues = self._queues
        return self._policy.streams_last and not (queues.decodes or queues.ready or queues.prompts)

    def plan(self, now_s: float) -> StepPlan | None:
        """Plans the next step and accounts for it as if it had run. One step may be in flight meanwhile.

        Returns:
          The plan, or None if there is nothing to do. Results go to `commit`, in the order of the plans, or a plan to
          `fail`.

        Raises:
          RuntimeError: two steps are in flight.
        """
        if self._flights.is_full:
            raise RuntimeError("plan() with two steps in flight: commit or fail the first one")
        if not self._queues:
            return None
        self._usage.pass_time(now_s)
        admission = self._admitter.admit(self._queues, self._memory.pool.available)
        flight = self._builder.build(self._steps + 1, admission, now_s)
        if flight.is_empty:
            return None
        self._steps += 1
        self._flights.begin(flight)
        return flight.plan

    def commit(self, result: StepResult, now_s: float) -> list[Output]:
        """Takes the result of the oldest step in flight: samples become output, finished sessions end.

        Returns:
          One output for each sample whose session is still open.

        Raises:
          RuntimeError: it is not that step's.
        """
        flight = self._flights.take(result.plan)
        done = SessionState.DONE
        for session in flight.sessions:
            if session.state is not done:
                self._memory.land(session)
        outputs = [
            self._accept(session, token, now_s)
            for session, token in zip(flight.sampling, result.tokens, strict=True)
            if session.state is not done
        ]
        decodes = self._queues.decodes
        for session in flight.sessions:
            if session.state is not done and (
                session.queue is not decodes or session.state is not SessionState.DECODING
            ):
                self._place(session, now_s)
        self._memory.refill()
        return outputs

    def fail(self, plan: StepPlan) -> list[SessionId]:
        """Ends the sessions of a step that failed. One that only got pages copied goes on without them.

        A step planned after it may have read what this one should have written, so it fails as well: neither `commit`
        nor `fail` may follow for it.

        Returns:
          Ids of the sessions that have ended.

        Raises:
          RuntimeError: it is not in flight.
        """
        failed: list[SessionId] = []
        for flight in self._flights.take_from(plan):
            self._memory.discard(flight.plan.saves)
            rows = {chunk.session_id for chunk in flight.plan.chunks}
            rows |= {sample.session_id for sample in flight.plan.samples}
            for session in flight.sessions:
                if session.state is SessionState.DONE:
                    continue
                if session.id in rows:
                    failed.append(session.id)
                    self._end(session)
                else:
                    self._memory.take_back(session)
                    self._place(session, session.last_event_s)
        return failed

    def forget_kv(self) -> None:
        """The device has lost all KV. Sessions stay, and compute or load theirs again.

        Raises:
          RuntimeError: a step is in flight; fail it first.
        """
        if self._flights:
            raise RuntimeError("forget_kv() with a step in flight: fail it first")
        self._memory.forget_device(self._roster.sessions)
        self._roster.rows.forget()
        for session in self._roster.sessions:
            self._place(session, session.last_event_s)

    # Views

    def session(self, session_id: SessionId) -> Session:
        """The open session of this id, to look at.

        Raises:
          NotFound: there is none.
        """
        return self._roster.find(session_id)

    def cached_tokens(self, tokens: np.ndarray, tenant: str = "") -> int:
        """How many leading tokens, int32 `[n]`, need not be computed here: their KV is on the device or the host."""
        return cached_tokens(tokens, tenant, self.config.block_size, self._memory.pool, self._memory.host)

    @property
    def backlog_tokens(self) -> int:
        """Tokens that open sessions have still to compute; O(those sessions)."""
        queues = self._queues
        return sum(s.remaining for queue in (queues.prompts, queues.streams) for s in queue.values())

    @property
    def open_sessions(self) -> int:
        """How many sessions are open."""
        return len(self._roster)

    @property
    def held_blocks(self) -> int:
        """Device blocks that sessions hold."""
        return self._memory.pool.held

    def stats(self) -> SchedulerStats:
        """A snapshot of counts; O(open sessions)."""
        pool, host = self._memory.pool, self._memory.host
        return SchedulerStats(
            sessions=dict(Counter(session.state.value for session in self._roster.sessions)),
            free_blocks=pool.free,
            cached_blocks=pool.cached,
            held_blocks=pool.held,
            total_blocks=pool.total,
            steps=self._steps,
            host=HostStats(self.config.host_blocks, self.config.host_blocks) if host is None else host.stats(),
            preemptions=replace(self._memory.counters),
            preempt_predicted_s=self._memory.predicted_s,
        )

    def check_integrity(self) -> None:
        """Raises RuntimeError unless blocks, slots and states add up. For tests and idle moments: O(pool)."""
        sessions = self._roster.sessions
        self._memory.check_integrity(sessions)
        self._roster.rows.check_integrity([session.slot for session in sessions])
        for session in sessions:
            session.check_integrity()
        self._queues.check_integrity(sessions)

    # How it is done

    def _change(self, session: Session, keep: int, tail: np.ndarray, now_s: float, final: bool) -> Ack:
        if session.is_final:
            raise FailedPrecondition(f"session {session.id!r}: the context was declared complete, it cannot change")
        self.config.check_length(keep + len(tail), session.params.max_tokens, final=final)
        return self._apply(session, keep, tail, now_s, final)

    def _apply(self, session: Session, keep: int, tail: np.ndarray, now_s: float, final: bool) -> Ack:
        kept = keep + common_prefix(session.tokens.view[keep:], tail)
        invalidated = max(0, session.computed - kept)
        session.invalidated += invalidated
        old_end = None
        if kept < session.kept:
            old_end = self._roster.rows.end_of(session)
            session.kept = 0
        if kept < len(session.tokens):
            self._memory.abandon(session, kept)
            session.keep_tokens(kept)
        session.tokens.extend(tail[kept - keep :])
        session.prompt_tokens = len(session.tokens)
        session.max_length = session.prompt_tokens + session.params.max_tokens
        if session.seq:
            self._gaps.learn(now_s - session.last_event_s)
        session.note_event(now_s)
        self._roster.rows.exchange(session, old_end)
        if final:
            session.is_final = True
            session.final_s = now_s
            if session.remaining == 0 and session.kept != session.prompt_tokens:
                # All KV is there, but the last position's hidden state is not: an update cut the context short.
                session.keep_computed(session.prompt_tokens - 1, self._memory.pool)
        claim_shared(session, self._memory.pool, self._memory.host)
        session.hash_blocks()
        self._place(session, now_s)
        session.seq += 1
        ack = Ack(session.id, session.seq, session.prompt_tokens, kept, invalidated)
        session.last_ack = ack
        return ack

    def _accept(self, session: Session, token: SampledToken, now_s: float) -> Output:
        reason = self._finish_reason(session, token)
        if reason != "error":
            session.tokens.push(token.token_id)
            session.pending -= 1
            if session.first_token_s is None:
                session.first_token_s = now_s
        if reason is None:
            return Output(session.id, token, None, None)
        stats = session.stats()
        self._end(session)
        return Output(session.id, token, reason, stats)

    def _finish_reason(self, session: Session, token: SampledToken) -> str | None:
        params = session.params
        if token.token_id < 0:
            return "error"
        is_eos = token.token_id in self.config.eos_token_ids and not params.ignore_eos
        if is_eos or token.token_id in params.stop_token_ids:
            return "stop"
        return "length" if session.output_tokens + 1 >= params.max_tokens else None

    def _place(self, session: Session, now_s: float) -> None:
        self._policy.note(session, now_s)
        self._queues.place(session)

    def _end(self, session: Session) -> None:
        self._memory.abandon(session, 0)
        self._queues.remove(session)
        session.move_to(SessionState.DONE)
        self._roster.leave(session)
