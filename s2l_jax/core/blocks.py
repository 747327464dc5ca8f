"""The device block pool: which block is free and who holds the others."""

from collections import deque
from collections.abc import Iterable

from s2l_jax.core.ids import BlockId


class BlockPool:
    """A fixed number of equal blocks. Every operation is O(blocks moved).

    Free blocks are handed out first in, first out, so a block that was just released is the last to be written again.
    """

    def __init__(self, num_blocks: int) -> None:
        self.total = num_blocks
        self._free: deque[BlockId] = deque(BlockId(i) for i in range(num_blocks))
        self._is_held = bytearray(num_blocks)

    @property
    def free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    @property
    def held(self) -> int:
        """Blocks that sessions hold."""
        return self.total - len(self._free)

    def allocate(self, count: int) -> list[BlockId]:
        """Takes `count` free blocks.

        Raises:
          RuntimeError: fewer are free; callers make room first.
        """
        if count > len(self._free):
            raise RuntimeError(f"{count} blocks wanted, {len(self._free)} of {self.total} free")
        blocks = [self._free.popleft() for _ in range(count)]
        for block in blocks:
            self._is_held[block] = 1
        return blocks

    def release(self, blocks: Iterable[int]) -> None:
        """Gives blocks back.

        Raises:
          RuntimeError: a block is not held, so two owners believed that it was theirs.
        """
        for block in blocks:
            if not self._is_held[block]:
                raise RuntimeError(f"block {block} released twice")
            self._is_held[block] = 0
            self._free.append(BlockId(block))

    def check_integrity(self, holders: Iterable[Iterable[int]]) -> None:
        """Raises RuntimeError unless the holders' blocks and the free ones are all blocks, each exactly once."""
        seen = sorted([*self._free, *(block for blocks in holders for block in blocks)])
        if seen != list(range(self.total)):
            raise RuntimeError(
                f"pool of {self.total} does not add up: {len(self._free)} free, {len(seen)} accounted for"
            )
        if sum(self._is_held) != self.held:
            raise RuntimeError(f"{sum(self._is_held)} blocks marked as held, {self.held} not free")
