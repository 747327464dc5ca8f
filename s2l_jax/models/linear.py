"""Projections: products with weights that are kept as `[out, in]`, in floating point or in int8 with scales."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int8

ONE_ROW_PIECES = 8

_PART_BYTES = 1 << 20  # of a widened weight: half of the second-level cache that recent server CPUs have for each core


class Linear(nnx.Module):
    """`x @ weight.T + bias` with the weight kept as `[out, in]`.

    A weight in int8 has a scale for each output: `weight * scale[:, None]` is what it stands for. The scale is applied
    to the product, so that the weight is never widened as a whole (`s2l_jax.models.quantization`).

    With `sum_over`, the name of a mesh axis, each device of that axis holds some columns of the weight and the same
    columns of `x`, and the products are summed over the devices.
    """

    def __init__(
        self, weight: Array, bias: Array | None = None, scale: Array | None = None, sum_over: str | None = None
    ) -> None:
        self.weight = nnx.Param(weight)
        self.bias = None if bias is None else nnx.Param(bias)
        self.scale = None if scale is None else nnx.Param(scale)
        self.sum_over = sum_over

    def __call__(self, x: Float[Array, "rows in_dim"]) -> Float[Array, "rows out_dim"]:
        """Multiplies in the dtype of `x`, accumulating in float32."""
        if self.scale is None:
            out = matmul(x, self.weight[...]).astype(x.dtype)
        else:
            out = (int8_matmul(x, self.weight[...]) * self.scale[...]).astype(x.dtype)
        if self.sum_over is not None:
            out = jax.lax.psum(out, self.sum_over)
        return out if self.bias is None else out + self.bias[...]


def matmul(x: Float[Array, "rows in_dim"], weight: Float[Array, "out_dim in_dim"]) -> Float[Array, "rows out_dim"]:
    """`x @ weight.T`, accumulated and returned in float32.

    One row is bound by the bandwidth at which the weight is read, and XLA on CPU reads fastest when the weight is a
    batch of matrices, each of them one thread's work (docs/cpu.md). The reshape moves no data.
    """
    if x.shape[0] == 1:
        pieces = weight.reshape(math.gcd(weight.shape[0], ONE_ROW_PIECES), -1, weight.shape[1])
        rows = jnp.broadcast_to(x, (len(pieces), *x.shape))
        batched = (((2,), (2,)), ((0,), (0,)))
        return jax.lax.dot_general(rows, pieces, batched, preferred_element_type=jnp.float32).reshape(1, -1)
    return jax.lax.dot_general(x, weight, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)


def int8_matmul(x: Float[Array, "rows in_dim"], weight: Int8[Array, "out_dim in_dim"]) -> Float[Array, "rows out_dim"]:
    """`x @ weight.T` with the weight in int8, accumulated and returned in float32.

    TPU and GPU widen the weight inside the product, as they read it. XLA on CPU would write the widened weight to
    memory first and read it from there, so it is given a part at a time that stays in the cache.
    """
    return jax.lax.platform_dependent(x, weight, cpu=_int8_by_parts, default=_int8_at_once)


def _int8_at_once(x: Array, weight: Array) -> Array:
    return matmul(x, weight.astype(x.dtype))


def _int8_by_parts(x: Array, weight: Array) -> Array:
    """Some outputs at a time; the last part may overlap the one before."""
    out_dim, in_dim = weight.shape
    part = _PART_BYTES // (in_dim * x.dtype.itemsize) // ONE_ROW_PIECES * ONE_ROW_PIECES or ONE_ROW_PIECES
    if part >= out_dim:
        return _int8_at_once(x, weight)

    def add_part(index: Array, out: Array) -> Array:
        first = jnp.minimum(index * part, out_dim - part)
        product = _int8_at_once(x, jax.lax.dynamic_slice(weight, (first, 0), (part, in_dim)))
        return jax.lax.dynamic_update_slice(out, product, (0, first))

    nothing = jnp.zeros((x.shape[0], out_dim), jnp.float32)
    return jax.lax.fori_loop(0, -(-out_dim // part), add_part, nothing)
