"""Host pages in arrays of NumPy: works with every backend, and moves through ordinary memory.

Each device's part of the pages has an array of its own. Of an engine of several processes, each has the parts of its
own devices.
"""

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
      page_shape: `[layers, kv_heads, block_size, kv_dim]`, of whole pages.
      dtype: of the pages.
      on_device: where pages are read to.
    """

    split_contents = False

    def __init__(self, slots: int, page_shape: tuple[int, ...], dtype: DTypeLike, on_device: Sharding) -> None:
        part_shape = on_device.shard_shape((1, *page_shape))[1:]
        self._parts = {device: np.empty((slots, *part_shape), dtype) for device in on_device.addressable_devices}
        self._page_shape = page_shape
        self._on_device = on_device

    def write(self, slots: Sequence[int], contents: Contents) -> None:
        """See `HostMemory.write`."""
        (pages,) = contents
        for shard in pages.addressable_shards:
            part = self._parts[shard.device]
            for slot, page in zip(slots, np.asarray(shard.data), strict=True):
                part[slot] = page

    def read(self, slots: Sequence[int]) -> Contents:
        """See `HostMemory.read`. Transfers may share memory with their source or run late, so they get a copy."""
        parts = [jax.device_put(part.take(slots, axis=0), device) for device, part in self._parts.items()]
        shape = (len(slots), *self._page_shape)
        return (jax.make_array_from_single_device_arrays(shape, self._on_device, parts),)
