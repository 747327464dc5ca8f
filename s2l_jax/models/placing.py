"""Named weights on the devices of a model: which part each device has, and how it gets there.

A weight goes from its file to the devices part by part: the host holds no more than one device's part of one weight.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from jaxtyping import Array

AXIS = "model"
SCALE = "weight_scale"

_SUMMED = ("o_proj", "down_proj")
_VOCABULARY = ("embed_tokens.weight", "lm_head.weight")

type DtypeOf = Callable[[str, np.dtype], np.dtype]
"""The dtype on the devices of a weight, of its name and its dtype in the file."""


def spec_of(name: str) -> PartitionSpec:
    """How a named weight is split.

    Each device has the rows of a projection that make its heads, its part of the feed-forward network and of the
    vocabulary, and the columns of the projections behind these, whose products are summed.
    """
    is_summed = any(summed in name for summed in _SUMMED)
    is_matrix = name.endswith(".weight")
    if "norm" in name or (is_summed and not is_matrix):
        return PartitionSpec()
    if is_summed:
        return PartitionSpec(None, AXIS)
    return PartitionSpec(AXIS, None) if is_matrix else PartitionSpec(AXIS)


@dataclass(frozen=True, slots=True)
class Layout:
    """The devices that a model lies on.

    Attributes:
      devices: in the order of their parts.
      mesh: of several; None for one.
    """

    devices: tuple[jax.Device, ...]
    mesh: Mesh | None

    @classmethod
    def on(cls, devices: Sequence[jax.Device]) -> Self:
        """One device, or several along one axis."""
        return cls(tuple(devices), Mesh(np.array(devices), (AXIS,)) if len(devices) > 1 else None)

    def sharding(self, name: str) -> Sharding:
        """Where a named weight lies."""
        return SingleDeviceSharding(self.devices[0]) if self.mesh is None else NamedSharding(self.mesh, spec_of(name))

    def shape(self, name: str, shape: Sequence[int]) -> tuple[int, ...]:
        """A weight's shape here: the vocabulary is filled up so that it divides."""
        spec, parts = spec_of(name), len(self.devices)
        if AXIS not in spec:
            return tuple(shape)
        axis = spec.index(AXIS)
        return (*shape[:axis], shape[axis] + -shape[axis] % parts, *shape[axis + 1 :])


@runtime_checkable
class PlacesItself(Protocol):
    """Weights that know a more direct way to the devices than through arrays of NumPy."""

    @property
    def abstract(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of each weight, as it is kept."""

    def on(self, layout: Layout, dtype_of: DtypeOf) -> Mapping[str, Array]:
        """The weights on devices, each to be taken once, those of a layer behind each other."""


def placed(weights: Mapping[str, np.ndarray], layout: Layout, dtype_of: DtypeOf) -> Mapping[str, Array]:
    """Weights on the devices of a layout, each put there when it is asked for."""
    return weights.on(layout, dtype_of) if isinstance(weights, PlacesItself) else _FromHost(weights, layout, dtype_of)


def abstract(weights: Mapping[str, np.ndarray]) -> Mapping[str, jax.ShapeDtypeStruct | np.ndarray]:
    """What has the shapes and dtypes of weights."""
    return weights.abstract if isinstance(weights, PlacesItself) else weights


def computed_in(dtype: np.dtype) -> DtypeOf:
    """Weights in the dtype that a model computes in; int8 and its scales stay as they are."""

    def dtype_of(name: str, own: np.dtype) -> np.dtype:
        return own if own == np.int8 else np.dtype(np.float32) if name.endswith(SCALE) else dtype

    return dtype_of


def join(arrays: Sequence[Array]) -> Array:
    """Arrays behind each other along their first axis; of split ones, on each device its parts behind each other."""
    if len(arrays) == 1:
        return arrays[0]
    sharding = None if isinstance(arrays[0], jax.core.Tracer) else arrays[0].sharding
    if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
        return _join_parts(sharding.mesh, sharding.spec)(*arrays)
    return jnp.concatenate(arrays)


@functools.cache
def _join_parts(mesh: Mesh, spec: PartitionSpec) -> Callable[..., Array]:
    def concatenate(*parts: Array) -> Array:
        return jnp.concatenate(parts)

    return jax.jit(jax.shard_map(concatenate, mesh=mesh, in_specs=spec, out_specs=spec))


class PartOfWeights(Mapping[str, np.ndarray]):
    """One device's part of named weights, cut out as they are asked for.

    The vocabulary is filled up with rows of zeros so that it divides.
    """

    def __init__(self, weights: Mapping[str, np.ndarray], index: int, parts: int) -> None:
        self._weights, self._index, self._parts = weights, index, parts

    def __getitem__(self, name: str) -> np.ndarray:
        value, spec = self._weights[name], spec_of(name)
        if AXIS not in spec:
            return value
        axis = spec.index(AXIS)
        size = -(-value.shape[axis] // self._parts)
        part = value[(slice(None),) * axis + (slice(self._index * size, (self._index + 1) * size),)]
        missing = size - part.shape[axis]
        return np.pad(part, ((0, missing), (0, 0))) if missing and name.endswith(_VOCABULARY) else part

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


class _FromHost(Mapping[str, Array]):
    """Weights that are arrays of NumPy, maybe in a mapped file."""

    def __init__(self, weights: Mapping[str, np.ndarray], layout: Layout, dtype_of: DtypeOf) -> None:
        self._weights, self._layout, self._dtype_of = weights, layout, dtype_of
        self._parts = [PartOfWeights(weights, index, len(layout.devices)) for index in range(len(layout.devices))]

    def __getitem__(self, name: str) -> Array:
        layout, whole = self._layout, self._weights[name]
        dtype = self._dtype_of(name, whole.dtype)
        if layout.mesh is None:
            return _put(whole, layout.devices[0], dtype)
        parts = [
            _put(part[name], device, dtype)
            for part, device in zip(self._parts, layout.devices, strict=True)
            if device.process_index == jax.process_index()
        ]
        shape = layout.shape(name, whole.shape)
        return jax.make_array_from_single_device_arrays(shape, layout.sharding(name), parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def _put(value: np.ndarray, device: jax.Device, dtype: np.dtype) -> Array:
    """Waits, or the host would hold all that is under way. No alias: if the file changes, the model must not."""
    converted = np.asarray(value).astype(dtype, copy=False)
    return jax.block_until_ready(jax.device_put(converted, device, may_alias=False))
