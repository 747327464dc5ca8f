"""Host pages as JAX arrays in pinned memory, which an accelerator reads and writes by itself.

Each slot has an array of its own, since not every backend can cut arrays in this memory. They are never changed, only
replaced, so what is being read stays as it is.
"""

from collections.abc import Sequence

import jax
from jax.sharding import Sharding
from jaxtyping import Array

from s2l_jax.engine.device_code import Contents


class PinnedMemory:
    """Pages in memory of the kind `pinned_host`, taken as slots are first written.

    Args:
      slots: pages it holds.
      on_host: the memory, of the kind `pinned_host`.
      on_device: where pages are read to.
    """

    split_contents = True

    def __init__(self, slots: int, on_host: Sharding, on_device: Sharding) -> None:
        self._pages: list[Array | None] = [None] * slots
        self._on_host, self._on_device = on_host, on_device

    def write(self, slots: Sequence[int], contents: Contents) -> None:
        """See `HostMemory.write`."""
        copies = jax.block_until_ready(jax.device_put(contents, self._on_host))
        for slot, page in zip(slots, copies, strict=True):
            self._pages[slot] = page

    def read(self, slots: Sequence[int]) -> Contents:
        """See `HostMemory.read`."""
        return tuple(jax.device_put([self._pages[slot] for slot in slots], self._on_device))
