"""Token ids for made-up sessions: of texts that have a name."""

import zlib
from collections.abc import Callable, Sequence

from workloads.content import named

TokenSource = Callable[[str, int], tuple[int, ...]]
"""Called as `source(name, count)`: the first `count` tokens of the text of this name, the same at each call."""

_VOCABULARY = 8192


def random_tokens(name: str, count: int) -> tuple[int, ...]:
    """Tokens without a meaning."""
    return tuple(named(name, count, _VOCABULARY).tolist())


def passages_of(text: Sequence[int]) -> TokenSource:
    """Passages of a text, for models that are to be fed something they know; each name begins at a place of its own.

    Args:
      text: tokens, one or more; a passage that reaches the end goes on at the beginning.
    """
    tokens = tuple(text)

    def source(name: str, count: int) -> tuple[int, ...]:
        start = zlib.crc32(name.encode()) % len(tokens)
        passage = tokens[start : start + count]
        while len(passage) < count:
            passage += tokens[: count - len(passage)]
        return passage

    return source
