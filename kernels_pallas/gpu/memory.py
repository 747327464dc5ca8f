"""Matrices in shared memory, laid out as the tensor cores read them."""

from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

type Ref = Any
type Scalar = Any

_SWIZZLE_BYTES = (128, 64, 32)


def swizzle_bytes(columns: int) -> int:
    """The widest swizzle whose tiles of bfloat16 fill rows of so many columns.

    Raises:
      ValueError: none does.
    """
    for size in _SWIZZLE_BYTES:
        if columns % (size // 2) == 0:
            return size
    raise ValueError(f"rows of {columns} bfloat16 do not divide into tiles of {_SWIZZLE_BYTES[-1]} bytes")


def shared_matrix(*shape: int, columns: int | None = None) -> Any:
    """A scratch type: bfloat16 matrices, each tiled and swizzled.

    Args:
      *shape: rows and columns are the last two.
      columns: so many are handed to the tensor cores at a time; None is all of them.
    """
    swizzle = swizzle_bytes(columns or shape[-1])
    # Their protocol's members have empty bodies, which mypy takes for abstract ones.
    transforms = (
        plgpu.TilingTransform((8, swizzle // 2)),  # type: ignore[abstract]
        plgpu.SwizzleTransform(swizzle),  # type: ignore[abstract]
    )
    return plgpu.SMEM(shape, jnp.bfloat16, transforms=transforms)


def store_rows(staged: Ref, destination: Ref, values: Any, first_column: int) -> None:
    """Rounds `[rows, columns]` in registers to bfloat16 and sends its first rows to global memory.

    Args:
      staged: `[rows, columns]` in shared memory, free to be overwritten.
      destination: `[wanted_rows, all_columns]` in global memory.
      values: float32 in registers.
      first_column: of the destination.
    """
    staged[...] = values.astype(staged.dtype)
    plgpu.commit_smem()
    wanted_rows, columns = destination.shape[0], values.shape[1]
    plgpu.copy_smem_to_gmem(staged.at[pl.ds(0, wanted_rows)], destination.at[:, pl.ds(first_column, columns)])
    plgpu.wait_smem_to_gmem(0)


def clear_rows(matrix: Ref, first_row: Scalar) -> None:
    """Makes the rows of a matrix from `first_row` on zero."""
    layout = plgpu.Layout.SMEM_GMEM_COPY(matrix.shape, matrix.dtype, swizzle_bytes(matrix.shape[1]))
    loaded = plgpu.load(matrix, layout=layout)
    rows = plgpu.broadcasted_iota(jnp.int32, loaded.shape, 0, layout=layout)
    matrix[...] = jnp.where(rows < first_row, loaded, jnp.zeros(loaded.shape, loaded.dtype))
