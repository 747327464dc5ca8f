"""The two matrix products on the tensor cores of Hopper (wgmma) and of Blackwell (tcgen05)."""

from dataclasses import dataclass
from typing import Any, Protocol

import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from kernels_pallas.gpu.blocks import Blocks

type Ref = Any


class TensorCores(Protocol):
    """A matrix product of two pieces of shared memory, into registers."""

    @property
    def layout(self) -> Any:
        """How the result lies in registers."""

    def product(self, left: Ref, right: Ref) -> Array:
        """`left @ right` in float32, waited for."""


@dataclass(frozen=True)
class Hopper:
    """Warpgroup matrix products of compute capability 9.0: 64 rows, accumulated in registers."""

    layout = plgpu.Layout.WGMMA

    def product(self, left: Ref, right: Ref) -> Array:
        """See `TensorCores`."""

        def multiply(accumulator: Ref) -> Array:
            plgpu.wgmma(accumulator, left, right)
            return accumulator[...]

        accumulator = plgpu.ACC((left.shape[0], right.shape[1]), jnp.float32)
        return pl.run_scoped(multiply, accumulator)


@dataclass(frozen=True)
class Blackwell:
    """Products of compute capability 10.0: 128 rows, accumulated in tensor memory.

    Attributes:
      accumulator: `[128, columns]` float32 in tensor memory, as wide as the widest product.
      done: barriers that order the tensor core.
      warpgroup: the one whose barrier this is.
    """

    accumulator: Ref
    done: Ref
    warpgroup: Any
    layout = plgpu.Layout.TCGEN05

    def product(self, left: Ref, right: Ref) -> Array:
        """See `TensorCores`."""
        accumulator = self.accumulator.at[:, pl.ds(0, right.shape[1])]
        plgpu.tcgen05_mma(accumulator, left, right, self.done.at[self.warpgroup], accumulate=False)
        plgpu.barrier_wait(self.done.at[self.warpgroup])
        result = plgpu.async_load_tmem(accumulator, layout=self.layout)
        plgpu.wait_load_tmem()  # the next product writes to the same place
        return result


def scratch_of(blocks: Blocks, *, blackwell: bool) -> dict[str, Any]:
    """Scratch types that `tensor_cores` wants for all warpgroups, by name."""
    if not blackwell:
        return {}
    columns = max(blocks.tokens, blocks.columns)
    return {
        "accumulator": plgpu.TMEM((blocks.rows, blocks.warpgroups * columns), jnp.float32),
        "done": plgpu.Barrier(num_barriers=blocks.warpgroups, orders_tensor_core=True),
    }


def tensor_cores(blocks: Blocks, accumulator: Ref | None, done: Ref | None, warpgroup: Any) -> TensorCores:
    """Of Blackwell for a warpgroup where there is scratch for it, else of Hopper."""
    if accumulator is None or done is None:
        return Hopper()
    columns = max(blocks.tokens, blocks.columns)
    return Blackwell(accumulator.at[:, pl.ds(warpgroup * columns, columns)], done, warpgroup)
