"""One compilation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


@dataclass(frozen=True, slots=True)
class Case:
    """A function, and the shapes that it is compiled for.

    Attributes:
      name: in the report.
      function: what is compiled.
      shapes: of its arguments, a tree for each.
      donated: positions of arguments that results may overwrite.
      pool_bytes: of one layer's pages on one device: nothing of this size may be copied.
      specs: how the arguments lie on the axis `model` of the mesh, a tree for each; None is all on each device.
      devices: of the mesh.
      may_spill_bytes: what a TPU kernel may spill of registers.
      collectives: the operations between devices that there may be, and how many of each.
    """

    name: str
    function: Callable[..., Any]
    shapes: tuple[Any, ...]
    donated: tuple[int, ...]
    pool_bytes: int
    specs: tuple[Any, ...] | None = None
    devices: int = 1
    may_spill_bytes: int = 0
    collectives: Mapping[str, int] = field(default_factory=dict)

    def placed(self, mesh: Mesh) -> tuple[Any, ...]:
        """The shapes, on the devices of a mesh."""
        specs = jax.tree.map(lambda _: PartitionSpec(), self.shapes) if self.specs is None else self.specs

        def place(shape: jax.ShapeDtypeStruct, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=NamedSharding(mesh, spec))

        return jax.tree.map(place, self.shapes, specs)
