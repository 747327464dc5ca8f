"""Blocks for the sessions of a step."""

import math
from collections.abc import Callable

import numpy as np

from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.costs import CostModel
from s2l_jax.core.draft import Draft
from s2l_jax.core.eviction import Evictor
from s2l_jax.core.memory import Memory
from s2l_jax.core.session import Session

_WORTH_SHARE = 0.5


class BlockSupply:
    """Gives sessions blocks of one pool, and evicts for them where that is allowed and pays."""

    def __init__(
        self, config: SchedulerConfig, costs: CostModel, memory: Memory, evictor: Evictor, *, streams_last: bool
    ) -> None:
        self._config = config
        self._costs = costs
        self._memory = memory
        self._pool = memory.pool
        self._evictor = evictor
        self._streams_last = streams_last

    def grow(self, session: Session, tokens: int, draft: Draft) -> int:
        """Gets blocks for up to `tokens` more tokens; returns for how many there are blocks now."""
        short = session.computed + tokens - session.capacity
        if short <= 0:
            return tokens
        need = -(-short // session.block_size)
        blocks = self.take(session, need, draft, lambda: self._costs.recompute(tokens, session.computed) / need)
        session.add_blocks(blocks)
        return tokens if len(blocks) == need else session.capacity - session.computed

    def take(self, session: Session, blocks: int, draft: Draft, worth_s: Callable[[], float]) -> np.ndarray:
        """Allocates up to `blocks` blocks.

        Args:
          session: for whom.
          blocks: wanted.
          draft: the step; it gets the copies that evictions ask for.
          worth_s: says what a block saves an incomplete session, and is asked if blocks are short; a complete session
            takes what it needs.
        """
        pool = self._pool
        usable = pool.available
        has_limit = self._streams_last and not session.is_final
        if has_limit:
            usable = max(0, min(usable, draft.spare_blocks))
        if blocks > usable:
            before = pool.available
            draft.saves += self._evictor.make_room(
                before + blocks - usable,
                session,
                draft.step_id,
                draft.now_s,
                hidden_s=self._costs.recompute(self._config.min_chunk_tokens, session.computed),
                worth_s=_WORTH_SHARE * worth_s() if has_limit else math.inf,
            )
            blocks = min(blocks, usable + pool.available - before)
        taken = pool.allocate(blocks)
        if has_limit:
            draft.spare_blocks -= blocks
        if blocks and session.admitted is None:
            self._memory.admit(session)
        return taken
