"""Phase 2 of planning: who gives up memory, and what becomes of what they had.

Victims lose blocks from their tail, and only as many as are needed, so that the prefix they keep need not be computed
again. Complete sessions may take from incomplete ones, and from complete ones that rank after them; incomplete ones
only from their like. Ranks are a total order, so evictions cannot go in a circle, and the first complete session can
always get on. A waiting stream can always lose its blocks, so it cannot hold up anybody.

What a tail costs is the victim's own cost (design: "KV memory"): its tokens at their positions, computed again, or its
blocks copied out, as far as that is not hidden under the step, and in again. Blocks that are on the host already are
dropped for nothing but the way back; blocks that others share stay where they are.
"""

import math
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.costs import CostModel
from s2l_jax.core.gaps import GapEstimator
from s2l_jax.core.memory import Memory
from s2l_jax.core.plan import HostCopy
from s2l_jax.core.policy import Policy
from s2l_jax.core.queues import Queues
from s2l_jax.core.session import Session

_MOST_PRICED = 4
_MOST_ASKED = 16  # by streams; those asked first have been silent for longest, so the others would hardly give way
_MIN_SILENCE_S = 0.01


class Price(NamedTuple):
    """What taking a tail costs its owner.

    Attributes:
      seconds: until it is back where it was.
      swap: by way of the host; else by computing it again.
    """

    seconds: float
    swap: bool


class Evictor:
    """Makes room in one pool. Looks at victims only when there is a shortage."""

    def __init__(
        self,
        config: SchedulerConfig,
        costs: CostModel,
        policy: Policy,
        memory: Memory,
        queues: Queues,
        gaps: GapEstimator,
    ) -> None:
        self._config = config
        self._costs = costs
        self._policy = policy
        self._memory = memory
        self._queues = queues
        self._gaps = gaps

    def make_room(
        self, blocks: int, newcomer: Session, step_id: int, now_s: float, *, hidden_s: float, worth_s: float
    ) -> list[HostCopy]:
        """Evicts until `blocks` are available, or until nobody is left to take from.

        Args:
          blocks: wanted.
          newcomer: for whom; it and all sessions planned in this step are safe.
          step_id: the step being planned.
          now_s: the time.
          hidden_s: how long the link may copy to the host without holding anybody up.
          worth_s: seconds that a block is worth to the newcomer; it takes no dearer ones from incomplete sessions.

        Returns:
          Copies to the host that must be made before the step writes anything.
        """
        saves: list[HostCopy] = []
        pool = self._memory.pool
        for victim in self._victims(newcomer, step_id, now_s, blocks):
            wanted = blocks - pool.available
            tail = min(wanted, len(victim.blocks))
            price = self.price(victim, tail, hidden_s)
            if not victim.is_final and price.seconds > worth_s * tail:
                break
            self._memory.predicted_s += price.seconds
            saves += self._take_tail(victim, wanted, swap=price.swap)
            if pool.available >= blocks:
                break
        return saves

    def price(self, victim: Session, blocks: int, hidden_s: float) -> Price:
        """What it costs a session to lose its last `blocks` blocks."""
        host, costs, size, computed = self._memory.host, self._costs, victim.block_size, victim.computed
        first = victim.blocks.size - blocks
        recompute_s = costs.recompute(computed - first * size, first * size)
        if host is None:
            return Price(recompute_s, swap=False)
        full = max(first, min(computed, victim.tokens.size) // size)
        unsaved = host.count_missing(victim.keys(first, full))
        if unsaved > host.room:
            return Price(recompute_s, swap=False)
        swap_s = costs.swap_in(full - first) + max(0.0, costs.swap_out(unsaved) - hidden_s)
        swap_s += costs.recompute(computed - full * size, full * size)  # a block that is not full stays behind
        if self._config.preemption == "swap" or swap_s < recompute_s:
            return Price(swap_s, swap=True)
        return Price(recompute_s, swap=False)

    def _victims(self, newcomer: Session, step_id: int, now_s: float, blocks: int) -> Iterator[Session]:
        """Those who may lose blocks, best victim first; each must have lost enough before the next one is asked for."""
        if not self._policy.streams_last:
            yield from self._victims_by_rank(newcomer, step_id)
            return
        safe: set[str] = {newcomer.id}
        most = None if newcomer.is_final else _MOST_ASKED
        while True:
            holders = islice(self._queues.holders.values(), most)
            willing = (s for s in holders if s.planned != step_id and s.id not in safe and _gives_way(s, newcomer))
            candidates = islice(willing, _MOST_PRICED)
            victim = min(candidates, key=lambda s: self._regret(s, blocks, now_s), default=None)
            if victim is None:
                break
            safe.add(victim.id)
            yield victim
        if newcomer.is_final:
            yield from self._victims_by_rank(newcomer, step_id)

    def _regret(self, session: Session, blocks: int, now_s: float) -> float:
        """Price per block over the time until the session is likely to need them again."""
        tail = min(blocks, len(session.blocks))
        silence_s = max(_MIN_SILENCE_S, self._gaps.silence_s(session, now_s))
        return self.price(session, tail, math.inf).seconds / (tail * silence_s)

    def _victims_by_rank(self, newcomer: Session, step_id: int) -> Iterator[Session]:
        """Incomplete sessions, those without work first, then complete ones; in each group the last by rank first.

        A complete newcomer may take from any incomplete session, also one whose rank is better: else the two could wait
        for each other. An incomplete one may only take from incomplete ones that rank after it.
        """
        rank, queues = self._policy.rank, self._queues
        own = rank(newcomer)
        idle: list[Session] = []
        streams: list[Session] = []
        for session in queues.holders.values():
            if newcomer.is_final or rank(session) > own:
                (idle if session.queue is None else streams).append(session)
        groups = [idle, streams]
        if newcomer.is_final:
            complete = (s for queue in (queues.decodes, queues.ready, queues.prompts) for s in queue.values())
            groups.append([s for s in complete if len(s.blocks) and rank(s) > own])
        for group in groups:
            for victim in sorted(group, key=rank, reverse=True):
                if victim.planned != step_id and victim is not newcomer:
                    yield victim

    def _take_tail(self, victim: Session, wanted: int, *, swap: bool) -> list[HostCopy]:
        """Takes blocks from the end until `wanted` more are available, or the victim has none."""
        pool, table = self._memory.pool, victim.blocks.view
        keep = max(0, len(table) - wanted)
        if not pool.has_one_holder(table[keep:]).all():
            freed = np.cumsum(pool.has_one_holder(table[::-1]))
            keep = max(0, len(table) - 1 - int(np.searchsorted(freed, wanted)))
        saves, dropped = self._save_tail(victim, keep, swap=swap)
        counters = self._memory.counters
        counters.tail += keep > 0
        if saves:
            counters.swap += 1
        elif dropped:
            counters.drop += 1
        else:
            counters.recompute += 1
        victim.preemptions += 1
        victim.keep_computed(keep * victim.block_size, pool)
        self._queues.place(victim)
        return saves

    def _save_tail(self, victim: Session, keep: int, *, swap: bool) -> tuple[list[HostCopy], int]:
        """Sees to it that the host has what can be had from there later."""
        memory, table = self._memory, victim.blocks.view
        saves: list[HostCopy] = []
        dropped = 0
        if memory.host is None:
            return saves, dropped
        full = min(victim.computed, len(victim.tokens)) // victim.block_size
        for index in range(keep, full):
            key, block = victim.key(index), int(table[index])
            if key in memory.host:
                memory.host.promote(key)
                dropped += 1
            elif swap and memory.pool.refs(block) == 1:
                copy = memory.save(block, key, victim.block_tokens(index), swapped=True)
                if copy is not None:
                    saves.append(copy)
        return saves, dropped


def _gives_way(holder: Session, newcomer: Session) -> bool:
    """True unless both are incomplete and the holder has heard from its client last.

    Among incomplete sessions this is a total order that only events change, so they cannot take from each other in a
    circle for as long as they are idle.
    """
    if newcomer.is_final:
        return True
    ours = newcomer.priority, newcomer.last_event_s, newcomer.arrival
    return (holder.priority, holder.last_event_s, holder.arrival) < ours
