"""The prefix index: which block holds the KV of which tokens behind which prefix.

It is a tree, whose nodes are blocks and whose edges are content keys (`s2l_jax.core.keys`). A full block is found by
its own key, in O(1). A block that matches only in part, because it is not full or goes on differently, is found among
the children of its parent that begin with the same token: whoever needs its first tokens copies it. A hit is always
compared with the tokens.
"""

from itertools import islice

import numpy as np

from s2l_jax.core.keys import BlockKey
from s2l_jax.core.tokens import common_prefix

_MOST_COMPARED = 4
_TOKEN_BYTES = 4

type Siblings = dict[bytes, dict[int, None]]
"""Blocks behind one parent, by their first token."""


class PrefixIndex:
    """Names blocks by content. A block has at most one entry, a full content at most one block.

    Attributes:
      entries: of each block, its parent, its own key (None if it is not full) and its tokens; to be looked at.
    """

    def __init__(self) -> None:
        self._blocks: dict[BlockKey, int] = {}
        self._children: dict[BlockKey, int | Siblings] = {}  # most parents have one child
        self.entries: dict[int, tuple[BlockKey, BlockKey | None, bytes]] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, block: int) -> bool:
        return block in self.entries

    def add(self, block: int, parent: BlockKey, key: BlockKey | None, tokens: bytes) -> bool:
        """Names a block that has no entry yet.

        Args:
          block: it must not be written while it is in here.
          parent: key of the block before it.
          key: its own key, None if it is not full.
          tokens: int32, as bytes.

        Returns:
          False, and nothing has changed, if another block holds the same full content.
        """
        if key is not None:
            if key in self._blocks:
                return False
            self._blocks[key] = block
        self.entries[block] = parent, key, tokens
        siblings = self._children.get(parent)
        if siblings is None:
            self._children[parent] = block
            return True
        if isinstance(siblings, int):
            siblings = self._children[parent] = {self.entries[siblings][2][:_TOKEN_BYTES]: {siblings: None}}
        siblings.setdefault(tokens[:_TOKEN_BYTES], {})[block] = None
        return True

    def remove(self, block: int) -> None:
        """Forgets a block, if it has an entry."""
        entry = self.entries.pop(block, None)
        if entry is None:
            return
        parent, key, tokens = entry
        if key is not None:
            del self._blocks[key]
        siblings = self._children[parent]
        if isinstance(siblings, int):
            del self._children[parent]
            return
        first = tokens[:_TOKEN_BYTES]
        del siblings[first][block]
        if not siblings[first]:
            del siblings[first]
            if not siblings:
                del self._children[parent]

    def goes_on(self, parent: BlockKey, first: bytes) -> bool:
        """True if a block behind `parent` begins with this token, int32 as bytes; if not, there is nothing to find."""
        siblings = self._children.get(parent)
        if isinstance(siblings, int):
            return self.entries[siblings][2].startswith(first)
        return siblings is not None and first in siblings

    def block_of(self, key: BlockKey) -> int | None:
        """The block of a full content by its key alone, where a collision does no harm; None if there is none."""
        return self._blocks.get(key)

    def find(self, parent: BlockKey, key: BlockKey, tokens: bytes) -> int | None:
        """The block of this full content, or None."""
        block = self._blocks.get(key)
        if block is None or self.entries[block] != (parent, key, tokens):
            return None
        return block

    def find_part(self, parent: BlockKey, tokens: np.ndarray) -> tuple[int, int]:
        """The block behind `parent` that begins with most of `tokens`.

        Args:
          parent: key of the block before.
          tokens: int32 `[n]`, n >= 1.

        Returns:
          The block and how many tokens match; `(-1, 0)` if none does. Only the youngest few are compared.
        """
        best, matched = -1, 0
        siblings = self._children.get(parent)
        if siblings is None:
            return best, matched
        alike = (siblings,) if isinstance(siblings, int) else siblings.get(tokens[:1].tobytes(), ())
        for block in islice(reversed(alike), _MOST_COMPARED):
            common = common_prefix(np.frombuffer(self.entries[block][2], np.int32), tokens)
            if common > matched:
                best, matched = block, common
        return best, matched

    def clear(self) -> None:
        """Forgets everything."""
        self._blocks.clear()
        self._children.clear()
        self.entries.clear()
