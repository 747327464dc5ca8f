"""Where an engine's arrays lie: all on one device, or split over several."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from jaxtyping import Array

from s2l_jax.models.sharding import CONTENTS, PAGES

WHOLE = PartitionSpec()


@dataclass(frozen=True, slots=True)
class Placement:
    """The devices of one engine.

    Attributes:
      devices: in the order of their parts.
      mesh: of several; None for one.
    """

    devices: tuple[jax.Device, ...]
    mesh: Mesh | None

    @classmethod
    def of(cls, array: Array) -> "Placement":
        """Where the arrays of a model lie, given one of them."""
        sharding = array.sharding
        if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
            return cls(tuple(sharding.mesh.devices.flat), sharding.mesh)
        (device,) = array.devices()
        return cls((device,), None)

    @property
    def whole(self) -> Sharding:
        """Of what every device has all of."""
        return self._sharding(WHOLE)

    @property
    def pages(self) -> Sharding:
        """Of one layer's pages."""
        return self._sharding(PAGES)

    def contents(self, memory_kind: str | None = None) -> Sharding:
        """Of pages outside the pool."""
        return self._sharding(CONTENTS, memory_kind)

    @property
    def spans_processes(self) -> bool:
        """Whether other processes have some of the devices; they make the same calls then."""
        return any(device.process_index != jax.process_index() for device in self.devices)

    def putter(self) -> Callable[[np.ndarray], Array]:
        """What puts an array on every device. Of several processes, each puts it on its own.

        `jax.device_put` would compare the array with those of the other processes first, which takes milliseconds.
        """
        whole = self.whole
        if self.spans_processes:
            return lambda value: jax.make_array_from_callback(value.shape, whole, value.__getitem__)
        return lambda value: jax.device_put(value, whole)

    def put_contents(self, pages: tuple[Any, ...]) -> tuple[Array, ...]:
        """Puts pages from elsewhere to where they can be scattered from; of several processes, each its own part."""
        where = self.contents()
        if self.spans_processes:
            whole = [np.asarray(piece) for piece in pages]
            return tuple(jax.make_array_from_callback(each.shape, where, each.__getitem__) for each in whole)
        return jax.device_put(pages, where)

    def __str__(self) -> str:
        return ", ".join(map(str, self.devices))

    def _sharding(self, spec: PartitionSpec, memory_kind: str | None = None) -> Sharding:
        if self.mesh is None:
            return SingleDeviceSharding(self.devices[0], memory_kind=memory_kind)
        return NamedSharding(self.mesh, spec, memory_kind=memory_kind)


def on_all_devices(
    function: Callable[..., Any], axis: str | None, mesh: Mesh | None, in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
    """`function`, run by each device on its parts; as it is if nothing is split.

    Args:
      function: what to run.
      axis: that arrays are split over; None splits nothing.
      mesh: with that axis; None is the mesh in use when the function is called.
      in_specs: how arguments are split, a tree that may end early, for each.
      out_specs: how results are.
    """
    if axis is None:
        return function
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
