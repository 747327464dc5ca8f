"""The scheduler: a deterministic state machine over sessions and blocks.

Events go in (`open`, `append`, `update`, `finish`, `cancel`), `plan(now_s)` says what the next engine step must do, and
`commit(result, now_s)` takes back what came of it. No clock, no thread, no device: real engine, simulator and property
tests drive this same object.

KV is accounted for when a step is *planned*. That is sound because an engine runs its steps in order: whatever a later
step reads has been written by then, and a block that changes hands in between is written by its new owner only after
its old owner's step has run.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from s2l_jax.core.admission import Wish, admit
from s2l_jax.core.blocks import BlockPool
from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from s2l_jax.core.eviction import Evictor
from s2l_jax.core.ids import SessionId, SlotId
from s2l_jax.core.outcome import Ack, Output, Preemptions, SchedulerStats, SessionStats
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import Chunk, Sample, SampledToken, StepPlan, StepResult
from s2l_jax.core.policy import find_policy
from s2l_jax.core.session import Session, SessionState
from s2l_jax.core.tokens import common_prefix

Tokens = Sequence[int] | np.ndarray
_NO_TOKENS = np.empty(0, np.int32)


class Scheduler:
    """Decides what an engine computes next. Not thread-safe: one caller at a time."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self._policy = find_policy(config.policy)
        self._pool = BlockPool(config.num_blocks)
        self._free_slots = [SlotId(i) for i in reversed(range(config.max_sessions))]
        self._sessions: dict[SessionId, Session] = {}
        self._runnable: dict[SessionId, Session] = {}
        self._in_flight: tuple[Session, ...] | None = None
        self._sampling: tuple[Session, ...] = ()
        self._preemptions = Preemptions()
        self._random = random.Random(config.seed)
        self._arrivals = 0
        self._steps = 0

    # Events

    def open(
        self, session_id: SessionId, tokens: Tokens, params: SamplingParams, now_s: float, *, final: bool = False
    ) -> Ack:
        """Opens a session with the beginning of its context, which may be empty. Its sequence number is 1.

        Raises:
          AlreadyExists: a session of this id is open.
          ResourceExhausted: `max_sessions` are open.
          InvalidArgument: context and `max_tokens` exceed `max_model_len`, or a final context is empty.
        """
        if session_id in self._sessions:
            raise AlreadyExists(f"session {session_id!r} is open already: choose another id")
        if not self._free_slots:
            raise ResourceExhausted(f"all {self.config.max_sessions} sessions are in use: try again later")
        tokens = np.asarray(tokens, np.int32)
        self._check_length(len(tokens), params, final=final)
        seed = self._random.getrandbits(63) if params.seed is None else params.seed
        session = Session(session_id, self._free_slots.pop(), params, seed, self._arrivals, now_s)
        self._arrivals += 1
        self._sessions[session_id] = session
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

    # Steps

    @property
    def has_work(self) -> bool:
        """True if a plan would not be None, memory permitting."""
        return bool(self._runnable)

    def plan(self, now_s: float) -> StepPlan | None:
        """Plans the next step and accounts for it as if it had run.

        Returns:
          The plan, or None if there is nothing to do. Its result goes to `commit`, or the plan to `fail`.

        Raises:
          RuntimeError: a step is in flight.
        """
        if self._in_flight is not None:
            raise RuntimeError("plan() with a step in flight: commit or fail it first")
        ranked = sorted(self._runnable.values(), key=self._policy)
        decodes = sum(session.is_decode for session in ranked)
        chunks, samples = self._acquire(admit(ranked, decodes, self.config))
        if not chunks and not samples:
            return None
        self._steps += 1
        chunks.sort(key=lambda chunk: len(chunk.tokens) > 1)
        return StepPlan(self._steps, tuple(chunks), tuple(samples))

    def commit(self, result: StepResult, now_s: float) -> list[Output]:
        """Takes the result of the step in flight: samples become output, finished sessions end.

        Returns:
          One output for each sample whose session is still open.
        """
        in_flight, sampling = self._land(result.plan)
        outputs = [
            self._accept(session, token, now_s)
            for session, token in zip(sampling, result.tokens, strict=True)
            if session.state is not SessionState.DONE
        ]
        for session in in_flight:
            if session.state is not SessionState.DONE:
                self._rest(session)
        return outputs

    def fail(self, plan: StepPlan) -> list[SessionId]:
        """Ends the sessions of a step that failed, since what their KV holds is unknown; returns their ids."""
        in_flight, _ = self._land(plan)
        failed = [session for session in in_flight if session.state is not SessionState.DONE]
        for session in failed:
            self._end(session)
        return [session.id for session in failed]

    # Views

    def session(self, session_id: SessionId) -> Session:
        """The open session of this id, to look at.

        Raises:
          NotFound: there is none.
        """
        if session_id not in self._sessions:
            raise NotFound(f"session {session_id!r} is not open: it was never opened, or it has ended")
        return self._sessions[session_id]

    def stats(self) -> SchedulerStats:
        """A snapshot of counts; O(open sessions)."""
        preempted = self._preemptions
        return SchedulerStats(
            sessions=dict(Counter(session.state.value for session in self._sessions.values())),
            free_blocks=self._pool.free,
            held_blocks=self._pool.held,
            total_blocks=self._pool.total,
            steps=self._steps,
            preemptions=Preemptions(preempted.swap, preempted.recompute, preempted.drop, preempted.tail),
        )

    def check_integrity(self) -> None:
        """Raises RuntimeError unless blocks, slots and states add up. For tests and idle moments: O(pool)."""
        self._pool.check_integrity(session.blocks.view.tolist() for session in self._sessions.values())
        slots = sorted([*self._free_slots, *(session.slot for session in self._sessions.values())])
        if slots != list(range(self.config.max_sessions)):
            raise RuntimeError(f"slots do not add up: {slots}")
        in_flight = {id(session) for session in self._in_flight or ()}
        for session in self._sessions.values():
            session.check_integrity(self.config.block_size, in_flight=id(session) in in_flight)
            is_runnable = session.state in (SessionState.READY, SessionState.DECODING) and id(session) not in in_flight
            if (session.id in self._runnable) != is_runnable:
                raise RuntimeError(f"session {session.id} is {session.state}, but not so in the runnable set")

    # How it is done

    def _check_length(self, context: int, params: SamplingParams, *, final: bool) -> None:
        limit = self.config.max_model_len
        if context + params.max_tokens > limit:
            raise InvalidArgument(
                f"context of {context} tokens and max_tokens {params.max_tokens} exceed the limit of {limit} tokens: "
                "send less context or ask for fewer tokens"
            )
        if final and context == 0:
            raise InvalidArgument("the context is complete but empty: there is nothing to generate from")

    def _change(self, session: Session, keep: int, tail: np.ndarray, now_s: float, final: bool) -> Ack:
        if session.is_final:
            raise FailedPrecondition(f"session {session.id!r}: the context was declared complete, it cannot change")
        self._check_length(keep + len(tail), session.params, final=final)
        return self._apply(session, keep, tail, now_s, final)

    def _apply(self, session: Session, keep: int, tail: np.ndarray, now_s: float, final: bool) -> Ack:
        kept = keep + common_prefix(session.tokens.view[keep:], tail)
        invalidated = max(0, session.computed - kept)
        session.invalidated += invalidated
        if kept < session.kept:
            session.kept = 0
        self._keep_computed(session, kept)
        session.tokens.truncate(kept)
        session.tokens.extend(tail[kept - keep :])
        session.prompt_tokens = len(session.tokens)
        session.last_event_s = now_s
        if final:
            session.is_final = True
            session.final_s = now_s
            if session.remaining == 0 and session.kept != session.prompt_tokens:
                # All KV is there, but the last position's hidden state is not: an update cut the context short.
                self._keep_computed(session, session.prompt_tokens - 1)
        if session.state is not SessionState.RUNNING:
            self._rest(session)
        session.seq += 1
        ack = Ack(session.id, session.seq, session.prompt_tokens, kept, invalidated)
        session.last_ack = ack
        return ack

    def _acquire(self, wishes: list[Wish]) -> tuple[list[Chunk], list[Sample]]:
        chunks: list[Chunk] = []
        samples: list[Sample] = []
        in_flight: list[Session] = []
        sampling: list[Session] = []
        make_room = self._lazy_evictor()
        for session, wanted in wishes:
            tokens = self._acquire_blocks(session, wanted, make_room)
            if tokens:
                start, ids = session.advance(tokens)
                chunks.append(Chunk(session.id, session.slot, start, ids, session.blocks.copy(0, len(session.blocks))))
            may_sample = session.is_final and session.remaining == 0
            if may_sample:
                samples.append(_sample(session))
                sampling.append(session)
            if tokens or may_sample:
                in_flight.append(session)
                del self._runnable[session.id]
                if session.state is SessionState.READY:
                    session.move_to(SessionState.RUNNING)
        if in_flight:
            self._in_flight, self._sampling = tuple(in_flight), tuple(sampling)
        return chunks, samples

    def _acquire_blocks(self, session: Session, tokens: int, make_room: Callable[[int, Session], None]) -> int:
        """Gets blocks for up to `tokens` more tokens; returns for how many."""
        block_size = self.config.block_size
        need = self.config.blocks_for(session.computed + tokens) - len(session.blocks)
        if need > self._pool.free:
            make_room(need, session)
            need = min(need, self._pool.free)
            tokens = min(tokens, (len(session.blocks) + need) * block_size - session.computed)
        session.blocks.extend(self._pool.allocate(need))
        return tokens

    def _lazy_evictor(self) -> Callable[[int, Session], None]:
        evictor: Evictor | None = None

        def make_room(blocks: int, newcomer: Session) -> None:
            nonlocal evictor
            if evictor is None:
                holders = self._sessions.values()
                evictor = Evictor(holders, self._policy, self._pool, self.config.block_size, self._preemptions)
            for victim in evictor.make_room(blocks, newcomer):
                self._runnable[victim.id] = victim

        return make_room

    def _land(self, plan: StepPlan) -> tuple[tuple[Session, ...], tuple[Session, ...]]:
        if self._in_flight is None or plan.step_id != self._steps:
            raise RuntimeError(f"step {plan.step_id} is not in flight")
        landed = self._in_flight, self._sampling
        self._in_flight, self._sampling = None, ()
        return landed

    def _accept(self, session: Session, token: SampledToken, now_s: float) -> Output:
        reason = self._finish_reason(session, token)
        if reason != "error":
            session.tokens.push(token.token_id)
            if session.first_token_s is None:
                session.first_token_s = now_s
        output = Output(session.id, token, reason, session.stats())
        if reason is not None:
            self._end(session)
        return output

    def _finish_reason(self, session: Session, token: SampledToken) -> str | None:
        params = session.params
        if token.token_id < 0:
            return "error"
        is_eos = token.token_id in self.config.eos_token_ids and not params.ignore_eos
        if is_eos or token.token_id in params.stop_token_ids:
            return "stop"
        return "length" if session.output_tokens + 1 >= params.max_tokens else None

    def _keep_computed(self, session: Session, tokens: int) -> None:
        session.keep_computed(tokens, self.config.block_size, self._pool)

    def _rest(self, session: Session) -> None:
        """Puts a session that is in no step into the state its tokens ask for."""
        state = session.resting_state()
        if state is not session.state:
            session.move_to(state)
        if state is SessionState.WAITING_CONTEXT:
            self._runnable.pop(session.id, None)
        else:
            self._runnable[session.id] = session

    def _end(self, session: Session) -> None:
        session.move_to(SessionState.DONE)
        self._pool.release(session.blocks.truncate(0).tolist())
        self._free_slots.append(session.slot)
        del self._sessions[session.id]
        self._runnable.pop(session.id, None)


def _sample(session: Session) -> Sample:
    position = len(session.tokens)
    history = session.tokens.copy(0, position) if session.params.has_penalties else None
    return Sample(
        session.id, session.slot, session.params, session.seed, position, history, prompt_tokens=session.prompt_tokens
    )
