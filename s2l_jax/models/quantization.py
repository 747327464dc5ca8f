"""Weights in int8, symmetric, with a scale for each output channel: `weight = int8 * scale[:, None]`.

Projections are quantised; embedding, output projection, norms and biases stay as they are (docs/models.md says what
that costs and gives). The scale is that of a whole row, however the row is split over devices, so a model has the
same int8 weights on any number of them, quantised at load or before.
"""

import functools
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array, Float, Int8

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models.placing import AXIS, SCALE, DtypeOf

QUANTIZATIONS = ("int8",)
_LARGEST = 127.0


def check_quantization(quantization: str | None) -> None:
    """Raises InvalidArgument if it is none of QUANTIZATIONS, nor None."""
    if quantization is not None and quantization not in QUANTIZATIONS:
        raise InvalidArgument(f"quantization is {quantization!r}, but must be one of {', '.join(QUANTIZATIONS)}")


def is_quantized(name: str) -> bool:
    """Whether a weight of this name becomes int8."""
    return name.endswith("_proj.weight")


def scale_name(weight: str) -> str:
    """The name of the scales of a weight."""
    return weight.removesuffix("weight") + SCALE


def before_quantization(dtype_of: DtypeOf) -> DtypeOf:
    """Weights that will be quantised in their own dtype, so that they are rounded once; others as `dtype_of` says."""

    def own_or(name: str, own: np.dtype) -> np.dtype:
        return own if is_quantized(name) and own.itemsize <= 4 else dtype_of(name, own)

    return own_or


def quantize(weight: Float[Array, "out_dim in_dim"]) -> tuple[Int8[Array, "out_dim in_dim"], Float[Array, "out_dim"]]:
    """The nearest int8 weight, and the float32 scales, placed as the weight is."""
    sharding = weight.sharding
    return _quantizer(sharding, _of_rows(sharding))(weight)


@functools.cache
def _quantizer(sharding: Sharding, of_rows: Sharding) -> "jax.stages.Wrapped":
    return jax.jit(_quantize, out_shardings=(sharding, of_rows))


def _of_rows(sharding: Sharding) -> Sharding:
    """Where one number for each row of a matrix lies."""
    if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
        return NamedSharding(sharding.mesh, PartitionSpec(AXIS) if sharding.spec[0] else PartitionSpec())
    return sharding


def _quantize(weight: Array) -> tuple[Array, Array]:
    wide = weight.astype(jnp.float32)
    largest = jnp.max(jnp.abs(wide), axis=1)
    scale = jnp.where(largest > 0, largest, _LARGEST) / _LARGEST
    return jnp.round(wide / scale[:, None]).astype(jnp.int8), scale


class QuantizedWeights(Mapping[str, Array]):
    """Placed weights, quantised as they are asked for. A weight's scales can be taken once, after the weight.

    Args:
      weights: each in its own dtype, where it can be quantised.
    """

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self._weights = weights
        self._scales: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        if name.endswith(SCALE):
            return self._scales.pop(name)
        weight = self._weights[name]
        if not is_quantized(name):
            return weight
        weight, self._scales[scale_name(name)] = quantize(weight)
        return weight

    def __iter__(self) -> Iterator[str]:
        for name in self._weights:
            yield name
            if is_quantized(name):
                yield scale_name(name)

    def __contains__(self, name: object) -> bool:
        is_scale = isinstance(name, str) and name.endswith(SCALE)
        return (name.removesuffix("_scale") if is_scale and isinstance(name, str) else name) in self._weights

    def __len__(self) -> int:
        return sum(1 for _ in self)
