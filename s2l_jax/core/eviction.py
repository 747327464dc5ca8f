"""Phase 2 of planning: who gives up memory.

Victims lose blocks from their tail, and only as many as are needed, so that the prefix they keep need not be computed
again. Nobody takes from a session that ranks before it: ranks are a total order, so evictions cannot go in a circle,
and the first session can always get on.
"""

from collections.abc import Iterable

from s2l_jax.core.blocks import BlockPool
from s2l_jax.core.outcome import Preemptions
from s2l_jax.core.policy import Policy
from s2l_jax.core.session import Session, SessionState


class Evictor:
    """Makes room during one planning pass. Made on the first shortage, so a step without one pays nothing."""

    def __init__(
        self, holders: Iterable[Session], policy: Policy, pool: BlockPool, block_size: int, counters: Preemptions
    ) -> None:
        self._policy = policy
        self._pool = pool
        self._block_size = block_size
        self._counters = counters
        self._victims = sorted((session for session in holders if len(session.blocks)), key=policy)

    def make_room(self, blocks: int, newcomer: Session) -> list[Session]:
        """Frees blocks until `blocks` are free, or until only sessions that rank before the newcomer hold any.

        Returns:
          The sessions that lost blocks; each is READY, since it has tokens to compute again.
        """
        rank = self._policy(newcomer)
        evicted = []
        while self._pool.free < blocks and self._victims and self._policy(self._victims[-1]) > rank:
            victim = self._victims[-1]
            self._take_tail(victim, blocks - self._pool.free)
            evicted.append(victim)
            if not len(victim.blocks):
                self._victims.pop()
        return evicted

    def _take_tail(self, victim: Session, wanted: int) -> None:
        kept_blocks = max(0, len(victim.blocks) - wanted)
        victim.keep_computed(kept_blocks * self._block_size, self._block_size, self._pool)
        victim.preemptions += 1
        if victim.state is not SessionState.READY:
            victim.move_to(SessionState.READY)
        self._counters.recompute += 1
        self._counters.tail += kept_blocks > 0
