"""Host pages in one NumPy array: works with every backend, and moves through ordinary memory."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Sharding
from jax.typing import DTypeLike

from s2l_jax.engine.device_code import Contents


class NumpyMemory:
    """Pages in memory that is reserved once; the system provides it as slots are first written.

    Args:
      slots: pages it holds.
      page_shape: `[layers, kv_heads, block_size, kv_dim]`.
      dtype: of the pages.
      on_device: where pages are read to.
    """

    split_contents = False

    def __init__(self, slots: int, page_shape: tuple[int, ...], dtype: DTypeLike, on_device: Sharding) -> None:
        self._pages = np.empty((slots, *page_shape), dtype)
        self._on_device = on_device

    def write(self, slots: Sequence[int], contents: Contents) -> None:
        """See `HostMemory.write`."""
        (pages,) = contents
        for slot, page in zip(slots, np.asarray(pages), strict=True):
            self._pages[slot] = page

    def read(self, slots: Sequence[int]) -> Contents:
        """See `HostMemory.read`. Transfers may share memory with their source or run late, so they get a copy."""
        return (jax.device_put(self._pages.take(slots, axis=0), self._on_device),)
