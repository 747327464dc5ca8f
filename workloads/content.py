"""Tokens of content that a trace gives by name or size alone."""

import functools
import zlib
from collections.abc import Iterable

import numpy as np

from workloads.trace import Part

# Clear of the special tokens, which most vocabularies put first.
_FIRST_TOKEN, _TOKENS = 64, 4096
_KEPT_TEXTS = 8192


def made_up(rng: np.random.Generator, count: int, vocab_size: int) -> np.ndarray:
    """Tokens without a meaning, int32 `[count]`, below `vocab_size`."""
    low = min(_FIRST_TOKEN, vocab_size - 1)
    return rng.integers(low, min(vocab_size, low + _TOKENS), size=count, dtype=np.int32)


def named(name: str, count: int, vocab_size: int) -> np.ndarray:
    """The first `count` tokens of the text of this name, int32 `[count]`; the same at each call, in each process."""
    return _text(name, vocab_size, 1 << max(6, (count - 1).bit_length()))[:count]


def joined(parts: Iterable[Part], vocab_size: int) -> np.ndarray:
    """The tokens of some parts, one after the other, int32 `[n]`."""
    return np.concatenate([np.empty(0, np.int32), *(named(name, count, vocab_size) for name, count in parts)])


@functools.lru_cache(_KEPT_TEXTS)
def _text(name: str, vocab_size: int, length: int) -> np.ndarray:
    """The beginning of a text; lengths are few, so that a text asked for in different lengths is kept about once."""
    return made_up(np.random.default_rng(zlib.crc32(name.encode())), length, vocab_size)
