"""The device block pool: which blocks are free, which are held, and which are kept for their content."""

from collections import OrderedDict, deque
from collections.abc import Iterable

from s2l_jax.core.ids import BlockId
from s2l_jax.core.prefix_index import PrefixIndex


class BlockPool:
    """A fixed number of equal blocks. Every operation is O(blocks moved).

    A block is free (without content), held (by one session, or by several that share it), or cached: nobody holds it,
    but its content is in the index. Cached blocks are as good as free ones to whoever allocates: free blocks go first,
    oldest first, so that a block just released is the last to be written again; then cached ones, the one that was
    released first before the others.

    Attributes:
      index: names contents. Blocks in it must not be written.
    """

    def __init__(self, num_blocks: int) -> None:
        self.total = num_blocks
        self.index = PrefixIndex()
        self._free: deque[BlockId] = deque(BlockId(block) for block in range(num_blocks))
        self._cached: OrderedDict[BlockId, None] = OrderedDict()
        self._refs = [0] * num_blocks

    @property
    def free(self) -> int:
        """Blocks without content that nobody holds."""
        return len(self._free)

    @property
    def cached(self) -> int:
        """Blocks with content that nobody holds."""
        return len(self._cached)

    @property
    def available(self) -> int:
        """Blocks that can be allocated."""
        return len(self._free) + len(self._cached)

    @property
    def held(self) -> int:
        """Blocks that sessions hold."""
        return self.total - self.available

    def refs(self, block: int) -> int:
        """How many hold a block."""
        return self._refs[block]

    def allocate(self, count: int) -> list[BlockId]:
        """Takes `count` blocks; what was cached in them is forgotten.

        Raises:
          RuntimeError: fewer are available; callers make room first.
        """
        if count > self.available:
            raise RuntimeError(f"{count} blocks wanted, {self.available} of {self.total} available")
        from_free = min(count, len(self._free))
        blocks = [self._free.popleft() for _ in range(from_free)]
        for _ in range(count - from_free):
            block, _ = self._cached.popitem(last=False)
            self.index.remove(block)
            blocks.append(block)
        for block in blocks:
            self._refs[block] = 1
        return blocks

    def refill(self, wanted: int) -> None:
        """Forgets the oldest cached contents until `wanted` blocks are free, so that `allocate` is quick."""
        while len(self._free) < wanted and self._cached:
            block, _ = self._cached.popitem(last=False)
            self.index.remove(block)
            self._free.append(block)

    def share(self, block: int) -> BlockId:
        """Holds a block of the index, which somebody else may hold as well."""
        block = BlockId(block)
        if self._refs[block] == 0:
            del self._cached[block]
        self._refs[block] += 1
        return block

    def release(self, blocks: Iterable[int]) -> None:
        """Gives blocks back; the first one given back is the first one to lose its content.

        Raises:
          RuntimeError: a block is not held, so two owners believed that it was theirs.
        """
        for block in map(BlockId, blocks):
            if self._refs[block] == 0:
                raise RuntimeError(f"block {block} released twice")
            self._refs[block] -= 1
            if self._refs[block] == 0:
                if block in self.index:
                    self._cached[block] = None
                else:
                    self._free.append(block)

    def forget(self) -> None:
        """Forgets all contents; what is held stays held."""
        self.index.clear()
        self._free.extend(self._cached)
        self._cached.clear()

    def check_integrity(self, holders: Iterable[Iterable[int]]) -> None:
        """Raises RuntimeError unless free, cached and held blocks are all blocks, and are held as often as counted."""
        refs = [0] * self.total
        for blocks in holders:
            for block in blocks:
                refs[block] += 1
        if refs != self._refs:
            wrong = [(block, have, want) for block, (have, want) in enumerate(zip(self._refs, refs, strict=True))]
            raise RuntimeError(f"(block, counted, held) {[w for w in wrong if w[1] != w[2]]} do not fit")
        unheld = sorted([*self._free, *self._cached])
        if unheld != [block for block, count in enumerate(refs) if count == 0]:
            raise RuntimeError(f"pool of {self.total} does not add up: {self.free} free, {self.cached} cached")
        if any(block not in self.index for block in self._cached) or any(block in self.index for block in self._free):
            raise RuntimeError("a cached block has no entry in the index, or a free one has")
