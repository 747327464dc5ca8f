"""All KV memory of one engine: the device pool, the host pool, and what was done in them."""

from collections import deque
from collections.abc import Iterable

from s2l_jax.core.blocks import BlockPool
from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.host_pool import HostPool
from s2l_jax.core.ids import BlockId
from s2l_jax.core.inflow import Inflow
from s2l_jax.core.keys import BlockKey
from s2l_jax.core.outcome import Preemptions
from s2l_jax.core.plan import HostCopy
from s2l_jax.core.session import Session

_BACK_UP_BELOW_AVAILABLE = 0.5
_FREE_SHARE = 16


class Memory:
    """Pools and counters.

    Attributes:
      pool: device blocks.
      inflow: what other engines bring into it ahead of their sessions.
      host: copies on the host; None if there is no host pool, or preemption never uses it.
      counters: evictions and copies.
      predicted_s: what the evictions were reckoned to cost.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        uses_host = config.host_blocks > 0 and config.preemption != "recompute"
        self.pool = BlockPool(config.num_blocks)
        self.inflow = Inflow(self.pool)
        self.host = HostPool(config.host_blocks) if uses_host else None
        self.counters = Preemptions()
        self.predicted_s = 0.0
        self._kept_free = min(config.token_budget // config.block_size, config.num_blocks // _FREE_SHARE)
        self._admitted = 0
        self._new: deque[tuple[int, BlockKey]] = deque(maxlen=config.num_blocks)

    def land(self, session: Session) -> None:
        """A step that the session was in has run: what it completed can be shared, and be backed up."""
        session.land()
        for block, key in session.index_landed(self.pool):
            if self.host is not None and not session.is_final:
                self._new.append((block, key))

    def admit(self, session: Session) -> None:
        """The session, which held no blocks, holds some now."""
        self._admitted += 1
        session.admitted = self._admitted

    def refill(self) -> None:
        """Frees what the next step may allocate, as far as cached content has to go for it; not while planning."""
        self.pool.refill(self._kept_free)

    def save(self, block: int, key: BlockKey, tokens: bytes, *, swapped: bool) -> HostCopy | None:
        """Plans a copy to the host, if there is room."""
        reserved = None if self.host is None else self.host.reserve(key, tokens, swapped=swapped)
        if reserved is None:
            return None
        self.counters.saved_blocks += swapped
        self.counters.backup_blocks += not swapped
        return HostCopy(BlockId(block), *reserved)

    @property
    def may_back_up(self) -> bool:
        """True if there may be something to back up, and memory is getting short: before that nobody loses anything."""
        return bool(self._new) and self.pool.available <= _BACK_UP_BELOW_AVAILABLE * self.pool.total

    def back_up(self, most_blocks: int) -> Iterable[HostCopy]:
        """Plans copies of blocks that streams hold, oldest first, so that losing them later costs no copy then."""
        while self.host is not None and self._new and most_blocks and self.host.room:
            block, key = self._new.popleft()
            entry = self.pool.index.entries.get(block)
            if entry is None or entry[1] != key or key in self.host or not self.pool.refs(block):
                continue
            copy = self.save(block, key, entry[2], swapped=False)
            if copy is not None:
                most_blocks -= 1
                yield copy

    def abandon(self, session: Session, tokens: int) -> None:
        """Nobody needs the session's KV past its first `tokens` tokens for it any more."""
        if self.host is not None and session.lost > tokens:
            size = session.block_size
            for index in range(tokens // size, min(session.lost, session.tokens.size) // size):
                self.host.demote(session.key(index))
        session.keep_computed(tokens, self.pool)

    def take_back(self, session: Session) -> None:
        """The last step the session was in has failed."""
        session.ends.pop()
        session.keep_computed(session.ends[-1] if session.ends else session.landed, self.pool)

    def discard(self, saves: Iterable[HostCopy]) -> None:
        """Copies to the host that were planned have not been made."""
        for copy in saves:
            if self.host is not None:
                self.host.discard(copy.slot, copy.epoch)

    def forget_device(self, sessions: Iterable[Session]) -> None:
        """The device has lost all KV."""
        for session in sessions:
            session.landed = 0
            session.kept = 0
            session.knows_last = False
            session.keep_computed(0, self.pool)
        self.pool.forget()
        self._new.clear()

    def check_integrity(self, sessions: Iterable[Session]) -> None:
        """Raises RuntimeError unless both pools add up: O(pool)."""
        self.pool.check_integrity([*(session.blocks.view.tolist() for session in sessions), *self.inflow.blocks])
        if self.host is not None:
            self.host.check_integrity()
