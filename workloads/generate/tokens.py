"""What made-up sessions are about: tokens of texts that have a name."""

import zlib
from collections.abc import Callable, Sequence

import numpy as np

TokenSource = Callable[[str, int], tuple[int, ...]]
"""Called as `source(name, count)`: the first `count` tokens of the text of this name, the same at each call."""

_FIRST_TOKEN, _TOKENS = 64, 4096  # clear of the special ones, which most vocabularies put first


def random_tokens(name: str, count: int) -> tuple[int, ...]:
    """Tokens without a meaning."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return tuple((_FIRST_TOKEN + rng.integers(0, _TOKENS, size=count)).tolist())


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
