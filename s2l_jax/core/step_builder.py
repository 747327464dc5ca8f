"""Builds one step: gives admitted sessions their blocks and writes down what the engine must do."""

import math
from typing import Any, NamedTuple

import numpy as np

from s2l_jax.core.admission import Admission
from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.costs import NO_WORK, CostModel, StepShape
from s2l_jax.core.eviction import Evictor
from s2l_jax.core.ids import BlockId
from s2l_jax.core.memory import Memory
from s2l_jax.core.plan import LAST_SAMPLED, Chunk, HostCopy, PageCopy, Sample, StepPlan
from s2l_jax.core.policy import Policy
from s2l_jax.core.queues import Queues
from s2l_jax.core.reuse import claim_shared, find_part, on_host, plan_restore
from s2l_jax.core.session import Session
from s2l_jax.core.tenants import TenantUsage

_LAST = np.array([LAST_SAMPLED], np.int32)
_LAST.flags.writeable = False
_BACK_UP_SHARE = 0.5
_WORTH_SHARE = 0.5
_MOST_REFUSED = 4


class Flight(NamedTuple):
    """A step on its way.

    Attributes:
      plan: what the engine does.
      sessions: all that are in it.
      sampling: those that are sampled, in the order of the plan's samples.
    """

    plan: StepPlan
    sessions: list[Session]
    sampling: list[Session]

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to do."""
        return not (self.sessions or self.plan.saves)


class StepBuilder:
    """Builds the steps of one scheduler, one after the other."""

    def __init__(
        self,
        config: SchedulerConfig,
        costs: CostModel,
        policy: Policy,
        memory: Memory,
        queues: Queues,
        evictor: Evictor,
        usage: TenantUsage,
    ) -> None:
        self._config = config
        self._costs = costs
        self._policy = policy
        self._memory = memory
        self._queues = queues
        self._evictor = evictor
        self._usage = usage
        self._step_s = costs.step(NO_WORK)
        self._admitted = 0
        self._start(0, Admission([], [], [], 0, 0.0, 0, 0), 0.0)

    def build(self, step_id: int, admission: Admission, now_s: float) -> Flight:
        """Plans a step and accounts for it as if it had run; it may turn out empty."""
        self._start(step_id, admission, now_s)
        decodes, prompts = admission.decodes, admission.prompts
        likely = len(decodes) + self._budget_tokens // self._config.block_size + 2 * min(len(prompts), self._room)
        for session in admission.ready[: self._room]:
            self._run(session)
        if likely <= self._memory.pool.available:
            self._decode(decodes)
            for session in prompts:
                if not (self._room and self._budget_tokens):
                    break
                self._try(session)
        else:
            self._run_by_rank(decodes, prompts)
        return Flight(self._finish(), self._sessions, self._sampling)

    def note_admitted(self, session: Session) -> None:
        """The session holds blocks now."""
        if session.admitted is None:
            self._admitted += 1
            session.admitted = self._admitted

    def _start(self, step_id: int, admission: Admission, now_s: float) -> None:
        self._step_id = step_id
        self._now_s = now_s
        self._budget_tokens = admission.budget_tokens
        self._budget_s = admission.budget_s
        self._room = admission.room
        self._spare_blocks = admission.spare_blocks
        self._is_first = True
        self._refused = 0
        self._is_alone = len(admission.prompts) == 1 and not admission.decodes
        self._singles: list[Chunk] = []
        self._chunks: list[Chunk] = []
        self._samples: list[Sample] = []
        self._saves: list[HostCopy] = []
        self._loads: list[HostCopy] = []
        self._copies: list[PageCopy] = []
        self._sources: list[np.ndarray] = []
        self._sessions: list[Session] = []
        self._sampling: list[Session] = []
        self._prefill_tokens = 0
        self._attended_tokens = 0.0
        self._contexts = 0

    def _finish(self) -> StepPlan:
        """Puts the parts together; with the time that is left on the link, streams are backed up."""
        shape = StepShape(self._prefill_tokens, self._attended_tokens, len(self._singles), self._contexts)
        if self._memory.host is not None:
            if self._singles or self._chunks:
                self._back_up(shape)
            self._memory.host.settle()
        for source in self._sources:  # one by one, since several copies may have the same
            self._memory.pool.release(source)
        return StepPlan(
            self._step_id,
            (*self._singles, *self._chunks),
            tuple(self._samples),
            tuple(self._saves),
            tuple(self._loads),
            tuple(self._copies),
            shape,
        )

    def _back_up(self, shape: StepShape) -> None:
        one_s, two_s = self._costs.swap_out(1), self._costs.swap_out(2)
        free_s = _BACK_UP_SHARE * self._costs.step(shape) - self._costs.swap_out(len(self._saves)) - one_s
        if free_s > 0:
            most = int(free_s / (two_s - one_s)) if two_s > one_s else self._config.num_blocks
            self._saves += self._memory.back_up(most)

    def _run_by_rank(self, decodes: list[Session], prompts: list[Session]) -> None:
        """Memory is short: who ranks first gets it first, and may take it from those whose turn is later."""
        for session in sorted([*decodes, *prompts], key=self._policy.rank):
            if session.queue is self._queues.decodes:
                self._decode([session])
            elif session.queue is not None and self._room and self._budget_tokens:
                self._try(session)

    def _try(self, session: Session) -> None:
        """Runs a prompt. Once a few incomplete sessions have found no memory, the others need not look for it.

        Under pressure hundreds of them wait for room, and looking takes each as long as it has blocks on the host.
        """
        if session.is_final:
            self._run(session)
        elif self._refused < _MOST_REFUSED:
            self._refused += not self._run(session)

    def _decode(self, sessions: list[Session]) -> None:
        """One token each. This runs most often, so it does by hand, in one loop, what `_compute` and `_sample` do.

        Named tuples are made without their own constructors, which takes half the time.
        """
        decodes, step_id = self._queues.decodes, self._step_id
        new: Any = tuple.__new__
        chunks, samples, contexts, planned = self._singles, self._samples, 0, []
        self._grow_decodes(sessions)
        for session in sessions:
            start = session.computed
            if session.queue is not decodes or (start == session.capacity and not self._grow(session, 1)):
                continue
            end = start + 1
            tokens = _LAST if session.knows_last else session.tokens.view[start:end]
            chunks.append(new(Chunk, (session.id, session.slot, start, tokens, session.blocks.view)))
            history = session.tokens.view[:end] if session.has_penalties else None
            samples.append(
                new(
                    Sample,
                    (session.id, session.slot, session.params, session.seed, end, history, session.prompt_tokens),
                )
            )
            if start < session.lost:
                session.recomputed += 1
            else:
                session.lost = end
            session.computed = session.kept = end
            session.knows_last = True
            session.pending += 1
            session.ends.append(end)
            session.planned = step_id
            contexts += start
            planned.append(session)
            if end + 1 >= session.max_length or session.has_penalties:
                self._queues.place(session)
        self._contexts += contexts
        self._sessions += planned
        self._sampling += planned

    def _run(self, session: Session) -> bool:
        """A prompt: finds what KV there is, then computes as far as the budget goes, then samples if that was all.

        Returns:
          True if it got on.
        """
        memory = self._memory
        before, budget, copies = session.computed, self._budget_tokens, len(self._loads) + len(self._copies)
        claim_shared(session, memory.pool, memory.host)
        if self._restore(session):
            self._copy_part(session)
            self._compute(session, session.remaining)
        may_sample = session.is_final and session.remaining == 0
        has_run = self._budget_tokens < budget or len(self._loads) + len(self._copies) > copies
        if may_sample or has_run:
            session.ends.append(session.computed)
            session.planned = self._step_id
            self._sessions.append(session)
            self._room -= 1
            if may_sample:
                self._sample(session, session.length)
        if may_sample or session.computed != before:
            self._policy.note(session, self._now_s)
            self._queues.place(session)
            return True
        return has_run

    def _compute(self, session: Session, wanted: int) -> None:
        wanted, seconds = self._affordable(session, wanted)
        tokens = self._grow(session, wanted) if wanted else 0
        if not tokens:
            return
        start = session.advance(tokens)
        end = start + tokens
        chunk = Chunk(session.id, session.slot, start, session.tokens.view[start:end], session.blocks.view)
        if tokens == 1:
            self._singles.append(chunk)
            self._contexts += start
        else:
            self._chunks.append(chunk)
            self._prefill_tokens += tokens
            self._attended_tokens += tokens * (start + tokens / 2)
        if tokens < wanted:
            seconds = self._chunk_s(tokens, start)
        self._usage.charge(session.tenant, seconds)
        self._budget_tokens -= tokens
        self._budget_s -= seconds
        self._is_first = False

    def _affordable(self, session: Session, wanted: int) -> tuple[int, float]:
        """How many tokens still fit into the step, in number and in time, and how long they take."""
        wanted = min(wanted, self._budget_tokens)
        seconds = self._chunk_s(wanted, session.computed)
        if seconds <= self._budget_s:
            return wanted, seconds
        tokens = min(wanted, self._costs.tokens_within(self._budget_s + self._step_s, session.computed))
        if tokens == 1 and self._chunk_s(1, session.computed) > self._budget_s:
            tokens = 0
        if self._is_first:
            tokens = max(tokens, min(wanted, self._config.min_chunk_tokens))
        return tokens, self._chunk_s(tokens, session.computed)

    def _chunk_s(self, tokens: int, start: int) -> float:
        """What a chunk adds to a step."""
        if tokens == 1:
            return self._costs.step(StepShape(decodes=1, decode_context_tokens=start)) - self._step_s
        return self._costs.recompute(tokens, start) - self._step_s

    def _sample(self, session: Session, position: int) -> None:
        history = session.tokens.view[:position] if session.has_penalties else None
        self._samples.append(
            Sample(session.id, session.slot, session.params, session.seed, position, history, session.prompt_tokens)
        )
        self._sampling.append(session)
        session.pending += 1
        session.knows_last = True

    # Memory

    def _restore(self, session: Session) -> bool:
        """Loads what the host has.

        Returns:
          True if the session may go on computing: what the host has need not be computed, so if there is no room to
          load it, it waits; and if the front of it is computed while the back is loaded, that is all for this step.
        """
        host = self._memory.host
        run = on_host(session, host) if host is not None else 0
        if host is None or not run:
            return True
        forced = self._config.preemption == "swap"
        is_alone = self._is_alone and session.is_final
        front, back = plan_restore(session, run, self._budget_tokens, self._costs, forced=forced, alone=is_alone)
        if front:
            self._compute(session, front * session.block_size)
            if session.computed % session.block_size:  # there was no room for the front, let alone for the back
                return False
            back = min(back, (session.reach - session.computed) // session.block_size)
        first = session.computed // session.block_size
        keys = [session.key(index) for index in range(first, first + back)]
        slots = [host.take(key) for key in keys]
        worth_s = self._costs.swap_in(back) / max(1, back)
        blocks = self._take(session, back, worth_s)
        for key in keys[len(blocks) :]:
            host.promote(key)
        self._loads += [HostCopy(block, *slot) for block, slot in zip(blocks.tolist(), slots, strict=False)]
        self._memory.counters.loaded_blocks += len(blocks)
        session.add_blocks(blocks)
        session.hold_found(len(blocks) * session.block_size)
        return not front and len(blocks) == back

    def _copy_part(self, session: Session) -> None:
        """Copies the beginning of a block that goes on differently."""
        pool = self._memory.pool
        source, tokens = find_part(session, pool)
        if not tokens:
            return
        held = np.array([pool.share(source)], np.int32)  # so that it does not become its own copy's target
        target = self._take(session, 1, self._costs.recompute(tokens, session.computed))
        if not len(target):
            pool.release(held)  # it may be the very block that is missing to compute instead
            return
        self._sources.append(held)
        self._copies.append(PageCopy(BlockId(source), BlockId(int(target[0]))))
        self._memory.counters.copied_blocks += 1
        session.add_blocks(target)
        session.hold_found(tokens)

    def _grow_decodes(self, sessions: list[Session]) -> None:
        """Gets a block for each session whose last one is full, all at once; none if there are not enough for all."""
        full = [s for s in sessions if s.computed == s.capacity and s.queue is self._queues.decodes]
        if full and len(full) <= self._memory.pool.available:
            for session, block in zip(full, self._memory.pool.allocate(len(full)), strict=True):
                session.add_blocks((block,))

    def _grow(self, session: Session, tokens: int) -> int:
        """Gets blocks for up to `tokens` more tokens; returns for how many."""
        size = self._config.block_size
        need = -((session.capacity - session.computed - tokens) // size)
        if need > 0:
            worth_s = 0.0 if session.is_final else self._costs.recompute(tokens, session.computed) / need
            session.add_blocks(self._take(session, need, worth_s))
            tokens = min(tokens, session.capacity - session.computed)
        return tokens

    def _take(self, session: Session, blocks: int, worth_s: float) -> np.ndarray:
        """Allocates up to `blocks` blocks, and evicts for them where that is allowed and pays.

        Args:
          session: for whom.
          blocks: wanted.
          worth_s: what a block saves an incomplete session; a complete one takes what it needs.
        """
        pool = self._memory.pool
        has_limit = self._policy.streams_last and not session.is_final
        usable = max(0, min(pool.available, self._spare_blocks)) if has_limit else pool.available
        if blocks > usable:
            before = pool.available
            self._saves += self._evictor.make_room(
                before + blocks - usable,
                session,
                self._step_id,
                self._now_s,
                hidden_s=self._costs.recompute(self._config.min_chunk_tokens, session.computed),
                worth_s=_WORTH_SHARE * worth_s if has_limit else math.inf,
            )
            usable += pool.available - before
        taken = pool.allocate(min(blocks, usable))
        if has_limit:
            self._spare_blocks -= len(taken)
        if len(taken):
            self.note_admitted(session)
        return taken
