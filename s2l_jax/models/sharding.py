"""Tensor parallelism: how the arrays of a decoder lie on the devices of a mesh axis.

Each device has the rows of a projection that make its heads, its part of the feed-forward network and of the
vocabulary, and the columns of the projections behind these, whose products are summed (Megatron-LM, Shoeybi et al.
2019).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array

from s2l_jax.models.config import ModelConfig
from s2l_jax.models.llama import Llama, check_weights

AXIS = "model"

_BY_ROWS = ("qkv", "gate_up")
_BY_COLUMNS = ("output", "down")
_BY_VOCABULARY = ("embedding", "lm_head")

_SUMMED = ("o_proj", "down_proj")
_VOCABULARY = ("embed_tokens.weight", "lm_head.weight")


def build_on(
    devices: Sequence[jax.Device], config: ModelConfig, weights: Mapping[str, np.ndarray], dtype: DTypeLike
) -> Llama:
    """A model on one device, or split over several, one part after the other.

    Args:
      devices: in the order of their parts.
      config: of the whole model.
      weights: of the whole model; each is read once for each device.
      dtype: of weights and activations.

    Raises:
      InvalidArgument: as `Llama.from_weights`; or heads or feed-forward network cannot be split evenly.
    """
    if len(devices) == 1:
        with jax.default_device(devices[0]):
            return Llama.from_weights(config, weights, dtype)
    part = config.part(len(devices))
    check_weights(config, weights)
    graph, states = None, []
    for index, device in enumerate(devices):
        with jax.default_device(device):
            graph, state = nnx.split(Llama(part, PartOfWeights(weights, index, len(devices)), dtype, AXIS))
        states.append(state)
    mesh = Mesh(np.array(devices), (AXIS,))

    def join(spec: PartitionSpec, *parts: Array) -> Array:
        axes = [*spec, *[None] * (parts[0].ndim - len(spec))]
        shape = [length * (len(parts) if axis else 1) for length, axis in zip(parts[0].shape, axes, strict=True)]
        return jax.make_array_from_single_device_arrays(tuple(shape), NamedSharding(mesh, spec), list(parts))

    joined = jax.tree.map(join, weight_specs(states[0]), *states)
    return nnx.merge(graph, joined)


class PartOfWeights(Mapping[str, np.ndarray]):
    """One device's part of named weights, cut out as they are asked for.

    The vocabulary is filled up with rows of zeros so that it divides.
    """

    def __init__(self, weights: Mapping[str, np.ndarray], index: int, parts: int) -> None:
        self._weights, self._index, self._parts = weights, index, parts

    def __getitem__(self, name: str) -> np.ndarray:
        value = np.asarray(self._weights[name])
        is_summed = any(summed in name for summed in _SUMMED)
        if "norm" in name or (is_summed and name.endswith(".bias")):
            return value
        axis = int(is_summed)
        if name.endswith(_VOCABULARY):
            value = np.pad(value, ((0, -len(value) % self._parts), (0, 0)))
        size = value.shape[axis] // self._parts
        return value[(slice(None),) * axis + (slice(self._index * size, (self._index + 1) * size),)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def weight_specs(state: Any) -> Any:
    """Where each array of a model's or a layer's state lies, as a tree of the same shape."""

    def spec(path: Sequence[Any], _: Any) -> PartitionSpec:
        return _weight_spec([str(part.key) for part in path if hasattr(part, "key")])

    return jax.tree_util.tree_map_with_path(spec, state)


PAGES = PartitionSpec(None, AXIS, None, None)
"""KV pages of a layer: each device has its heads of all of them."""

CONTENTS = PartitionSpec(None, None, AXIS, None, None)
"""Pages outside the pool, `[pages, layers, kv_heads, page_size, kv_dim]`, likewise."""


def _weight_spec(path: Sequence[str]) -> PartitionSpec:
    if any(name in path for name in _BY_VOCABULARY):
        return PartitionSpec(AXIS, None)
    if any(name in path for name in _BY_ROWS):
        return PartitionSpec(AXIS, None) if "weight" in path else PartitionSpec(AXIS)
    if any(name in path for name in _BY_COLUMNS) and "weight" in path:
        return PartitionSpec(None, AXIS)
    return PartitionSpec()
