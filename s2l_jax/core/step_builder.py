"""Builds one step: who of those admitted runs in it, and what KV each of them is spared."""

import numpy as np

from s2l_jax.core.admission import Admission
from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.costs import NO_WORK, CostModel, StepShape
from s2l_jax.core.decoding import decode
from s2l_jax.core.draft import Draft
from s2l_jax.core.eviction import Evictor
from s2l_jax.core.flights import Flight
from s2l_jax.core.ids import BlockId
from s2l_jax.core.memory import Memory
from s2l_jax.core.plan import HostCopy, PageCopy
from s2l_jax.core.policy import Policy
from s2l_jax.core.queues import Queues
from s2l_jax.core.reuse import claim_shared, find_part, may_find, on_host, plan_restore
from s2l_jax.core.session import Session
from s2l_jax.core.supply import BlockSupply
from s2l_jax.core.tenants import TenantUsage

_BACK_UP_SHARE = 0.5
_MOST_REFUSED = 4


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
        self._usage = usage
        self._supply = BlockSupply(config, costs, memory, evictor, streams_last=policy.streams_last)
        self._step_s = costs.step(NO_WORK)

    def build(self, step_id: int, admission: Admission, now_s: float) -> Flight:
        """Plans a step and accounts for it as if it had run; it may turn out empty."""
        decodes, prompts, pool = admission.decodes, admission.prompts, self._memory.pool
        self._admission = admission
        self._draft = draft = Draft(step_id, admission, now_s)
        self._refused = 0
        likely = len(decodes) + draft.budget_tokens // self._config.block_size + 2 * min(len(prompts), draft.room)
        for session in admission.ready[: draft.room]:
            self._run(session)
        if likely <= pool.available:
            decode(decodes, draft, self._queues, pool)
            for session in prompts:
                if not (draft.room and draft.budget_tokens):
                    break
                self._try(session)
        else:
            self._run_by_rank(decodes, prompts)
        return self._finish(draft)

    def _finish(self, draft: Draft) -> Flight:
        """Puts the parts together; with the time that is left on the link, streams are backed up."""
        memory = self._memory
        if memory.host is not None:
            if memory.may_back_up and (draft.singles or draft.chunks):
                self._back_up(draft)
            memory.host.settle()
        for copy in draft.copies:  # one by one, since several may have the same source
            memory.pool.release(np.array([copy.source], np.int32))
        return draft.flight()

    def _back_up(self, draft: Draft) -> None:
        one_s, two_s = self._costs.swap_out(1), self._costs.swap_out(2)
        free_s = _BACK_UP_SHARE * self._costs.step(draft.shape) - self._costs.swap_out(len(draft.saves)) - one_s
        if free_s > 0:
            most = int(free_s / (two_s - one_s)) if two_s > one_s else self._config.num_blocks
            draft.saves += self._memory.back_up(most)

    def _run_by_rank(self, decodes: list[Session], prompts: list[Session]) -> None:
        """Memory is short: who ranks first gets it first, and may take it from those whose turn is later.

        Decodes that come one after the other run together as long as there are blocks for them.
        """
        draft, queues, pool = self._draft, self._queues, self._memory.pool
        together: list[Session] = []
        blocks = pool.available
        for session in sorted([*decodes, *prompts], key=self._policy.sort_key()):
            is_decode = session.queue is queues.decodes
            if is_decode:
                blocks -= session.computed == session.capacity
                if blocks >= 0:
                    together.append(session)
                    continue
            elif session.queue is None or not (draft.room and draft.budget_tokens):
                continue
            decode(together, draft, queues, pool)
            if not is_decode:
                self._try(session)
            elif self._supply.grow(session, 1, draft):
                decode([session], draft, queues, pool)
            together, blocks = [], pool.available
        decode(together, draft, queues, pool)

    def _try(self, session: Session) -> None:
        """Runs a prompt. Once a few incomplete sessions have found no memory, the others need not look for it.

        Under pressure hundreds of them wait for room, and looking takes each as long as it has blocks on the host.
        """
        if session.is_final:
            self._run(session)
        elif self._refused < _MOST_REFUSED:
            self._refused += not self._run(session)

    def _run(self, session: Session) -> bool:
        """A prompt: finds what KV there is, then computes as far as the budget goes, then samples if that was all.

        Returns:
          True if it got on.
        """
        draft, memory = self._draft, self._memory
        before, budget, has_pages, goes_on = session.computed, draft.budget_tokens, False, True
        if may_find(session, memory.pool, memory.host):
            has_pages, goes_on = self._find(session)
        if goes_on:
            self._compute(session, session.remaining)
        may_sample = session.is_final and session.remaining == 0
        has_run = has_pages or draft.budget_tokens < budget
        if may_sample or has_run:
            draft.add(session)
            if may_sample:
                draft.sample(session)
        if may_sample or session.computed != before:
            if session.is_final:
                self._policy.note(session, draft.now_s)
            self._queues.place(session)
            return True
        return has_run

    def _compute(self, session: Session, wanted: int) -> None:
        draft, start = self._draft, session.computed
        wanted = min(wanted, draft.budget_tokens)
        seconds = self._chunk_s(wanted, start)
        if seconds > draft.budget_s:
            wanted, seconds = self._affordable(wanted, start)
        tokens = self._supply.grow(session, wanted, draft)
        if not tokens:
            return
        if tokens < wanted:
            seconds = self._chunk_s(tokens, start)
        draft.compute(session, tokens, seconds)
        self._usage.charge(session.tenant, seconds)

    def _affordable(self, wanted: int, start: int) -> tuple[int, float]:
        """How many of the tokens wanted still fit into the time of the step, and how long they take."""
        draft = self._draft
        tokens = min(wanted, self._costs.tokens_within(draft.budget_s + self._step_s, start))
        if tokens == 1 and self._chunk_s(1, start) > draft.budget_s:
            tokens = 0
        if draft.budget_tokens == self._admission.budget_tokens:  # nobody else has computed, and somebody must
            tokens = max(tokens, min(wanted, self._config.min_chunk_tokens))
        return tokens, self._chunk_s(tokens, start)

    def _chunk_s(self, tokens: int, start: int) -> float:
        """What a chunk adds to a step."""
        if tokens == 1:
            return self._costs.step(StepShape(decodes=1, decode_context_tokens=start)) - self._step_s
        return self._costs.recompute(tokens, start) - self._step_s

    # KV that exists already

    def _find(self, session: Session) -> tuple[bool, bool]:
        """Shares, loads and copies what there is.

        Returns:
          Whether pages are loaded or copied for the session, and whether it may go on computing.
        """
        draft = self._draft
        copies = len(draft.loads) + len(draft.copies)
        claim_shared(session, self._memory.pool, self._memory.host)
        goes_on = self._restore(session)
        if goes_on:
            self._copy_part(session)
        return len(draft.loads) + len(draft.copies) > copies, goes_on

    def _restore(self, session: Session) -> bool:
        """Loads what the host has.

        Returns:
          True if the session may go on computing: what the host has need not be computed, so if there is no room to
          load it, it waits; and if the front of it is computed while the back is loaded, that is all for this step.
        """
        draft, host = self._draft, self._memory.host
        run = on_host(session, host) if host is not None else 0
        if host is None or not run:
            return True
        forced = self._config.preemption == "swap"
        is_alone = session.is_final and len(self._admission.prompts) == 1 and not self._admission.decodes
        front, back = plan_restore(session, run, draft.budget_tokens, self._costs, forced=forced, alone=is_alone)
        if front:
            self._compute(session, front * session.block_size)
            if session.computed % session.block_size:  # there was no room for the front, let alone for the back
                return False
            back = min(back, (session.reach - session.computed) // session.block_size)
        first = session.computed // session.block_size
        keys = session.keys(first, first + back)
        slots = [host.take(key) for key in keys]
        blocks = self._supply.take(session, back, draft, lambda: self._costs.swap_in(back) / back)
        for key in keys[len(blocks) :]:
            host.promote(key)
        draft.loads += [HostCopy(block, *slot) for block, slot in zip(blocks.tolist(), slots, strict=False)]
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
        pool.share(source)  # so that it does not become its own copy's target
        target = self._supply.take(session, 1, self._draft, lambda: self._costs.recompute(tokens, session.computed))
        if not len(target):
            pool.release(np.array([source], np.int32))  # it may be the very block that is missing to compute instead
            return
        self._draft.copies.append(PageCopy(BlockId(source), BlockId(int(target[0]))))
        self._memory.counters.copied_blocks += 1
        session.add_blocks(target)
        session.hold_found(tokens)
