"""Full blocks that another engine sends ahead of their session: expected first, then content like any other.

What has come belongs to nobody. It is cached under its content key, so the session finds it when it is adopted, as does
anybody else who begins alike; whoever needs memory takes it, the oldest first. A context that changes meanwhile just
stops asking for it: no key ever stands for other content.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from s2l_jax.core.blocks import BlockPool
from s2l_jax.core.keys import BlockKey
from s2l_jax.core.session import Session


@dataclass(frozen=True, slots=True)
class Content:
    """Full blocks that follow each other, by content.

    Attributes:
      parent: key of the block before the first one.
      keys: of each block.
      tokens: of each block, int32 as bytes.
    """

    parent: BlockKey
    keys: tuple[BlockKey, ...]
    tokens: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """Content on its way.

    Attributes:
      content: what comes.
      blocks: where to, int32 `[n]`. Nobody else uses them until it is settled.
    """

    content: Content
    blocks: np.ndarray


def full_blocks(session: Session) -> int:
    """How many leading blocks of a session are full, known and certainly there."""
    return min(session.landed, session.tokens.size) // session.block_size


def content_of(session: Session, first: int, count: int) -> Content:
    """Blocks `first` to `first + count - 1` of a session, which are full."""
    keys = session.keys(first, first + count)
    tokens = (session.block_tokens(index) for index in range(first, first + count))
    return Content(session.key(first - 1), tuple(keys), tuple(tokens))


class Inflow:
    """What is being brought into one pool."""

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._expected: set[Expected] = set()
        self._keys: set[BlockKey] = set()

    @property
    def blocks(self) -> list[list[int]]:
        """All blocks that something is expected in."""
        return [expected.blocks.tolist() for expected in self._expected]

    def known(self, content: Content) -> int:
        """How many of the first blocks are here already, or expected."""
        parents = (content.parent, *content.keys)
        rows = zip(parents, content.keys, content.tokens, strict=False)
        return sum(1 for _ in takewhile(lambda row: self._is_known(*row), rows))

    def expect(self, content: Content, spare_blocks: int) -> Expected | None:
        """Takes blocks for content that is to come; None if fewer than `spare_blocks` would be available then."""
        if self._pool.available - len(content.keys) < spare_blocks:
            return None
        expected = Expected(content, self._pool.allocate(len(content.keys)))
        self._expected.add(expected)
        self._keys.update(content.keys)
        return expected

    def __contains__(self, expected: Expected) -> bool:
        return expected in self._expected

    def continuing(self, session: Session, coming: Iterable[Expected], tokens: int) -> list[Expected]:
        """Those of what is expected, in order, that continue the blocks of a session, within its first tokens."""
        start, found = len(session.blocks), []
        for expected in coming:
            end = start + len(expected.blocks)
            if end * session.block_size <= tokens and tuple(session.keys(start, end)) == expected.content.keys:
                found.append(expected)
                start = end
        return found

    def take(self, expected: Expected) -> np.ndarray:
        """Gives the blocks, int32 `[n]`, to the session that the content is for: they are its own from now on."""
        self._forget(expected)
        return expected.blocks

    def settle(self, expected: Expected, *, has_come: bool) -> None:
        """The content is there, in the same breath as it was scattered, or will never be. The blocks are given back."""
        content = expected.content
        self._forget(expected)
        if has_come:
            parents = (content.parent, *content.keys)
            rows = zip(expected.blocks.tolist(), parents, content.keys, content.tokens, strict=False)
            for block, parent, key, tokens in rows:
                self._pool.index.add(block, parent, key, tokens)  # nothing happens if somebody has brought it meanwhile
        self._pool.release(expected.blocks[::-1])
        if has_come:
            self._renew(content.parent)

    def give_way(self, keys: list[BlockKey]) -> None:
        """Nobody waits for this content any more: unless somebody holds it, it is the first to be overwritten."""
        for key in keys:
            block = self._pool.index.block_of(key)
            if block is not None:
                self._pool.demote(block)

    def _forget(self, expected: Expected) -> None:
        self._expected.remove(expected)
        self._keys.difference_update(expected.content.keys)

    def _is_known(self, parent: BlockKey, key: BlockKey, tokens: bytes) -> bool:
        return key in self._keys or self._pool.index.find(parent, key, tokens) is not None

    def _renew(self, key: BlockKey) -> None:
        """What comes first in a context is of use without what follows, and nothing is without what comes before it."""
        pool = self._pool
        while (block := pool.index.block_of(key)) is not None:
            pool.renew(block)
            key = pool.index.entries[block][0]
