"""Vectors of passages, embedded once and kept."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np


class Encoder(Protocol):
    """Turns text into vectors.

    Attributes:
      name: of the model, with its version.
    """

    name: str

    def embed(self, texts: Sequence[str], tell: Callable[[int, int], None] | None = None) -> np.ndarray:
        """Float32 `[texts, dim]`, each of length 1; `tell` hears how many of how many are done."""
        ...


def embedded(
    texts: Sequence[str], encoder: Encoder, cache: Path, tell: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """Vectors of these texts, from the cache if this encoder has embedded exactly these before.

    Args:
      texts: to be embedded.
      encoder: what embeds them.
      cache: folder for vectors.
      tell: told how many of how many are done.

    Returns:
      Float32 `[texts, dim]`.
    """
    digest = hashlib.sha256("\0".join([encoder.name, *texts]).encode()).hexdigest()
    path = cache / f"vectors-{digest[:16]}.npy"
    if path.exists():
        return np.load(path)
    vectors = encoder.embed(texts, tell)
    cache.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npy")
    np.save(partial, vectors)
    partial.replace(path)
    return vectors
