"""Tensor parallelism: how the arrays of a decoder lie on the devices of a mesh axis.

Each device has the rows of a projection that make its heads, its part of the feed-forward network and of the
vocabulary, and the columns of the projections behind these, whose products are summed (Megatron-LM, Shoeybi et al.
2019).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from s2l_jax.models.config import ModelConfig
from s2l_jax.models.llama import Llama, check_weights
from s2l_jax.models.placing import AXIS, Layout, PartOfWeights, abstract, computed_in, placed
from s2l_jax.models.quantization import QuantizedWeights, before_quantization, check_quantization

__all__ = ["AXIS", "CONTENTS", "PAGES", "PartOfWeights", "build_on", "weight_specs"]

_BY_ROWS = ("qkv", "gate_up")
_BY_COLUMNS = ("output", "down")
_BY_VOCABULARY = ("embedding", "lm_head")


def build_on(
    devices: Sequence[jax.Device],
    config: ModelConfig,
    weights: Mapping[str, np.ndarray],
    dtype: DTypeLike,
    quantization: str | None = None,
) -> Llama:
    """A model on one device, or split over several, layer by layer.

    Args:
      devices: in the order of their parts; those of other processes are theirs to fill.
      config: of the whole model.
      weights: of the whole model; of each, only what a device has is read for it. They may be in int8 already.
      dtype: of activations, and of weights that are not in int8.
      quantization: `int8` quantises weights as they are read; None leaves them as they are.

    Raises:
      InvalidArgument: as `Llama.from_weights`; or heads or feed-forward network cannot be split evenly.
    """
    check_quantization(quantization)
    part = config.part(len(devices)) if len(devices) > 1 else config
    kept = abstract(weights)
    check_weights(config, kept)
    layout, dtype_of = Layout.on(devices), computed_in(np.dtype(dtype))
    if quantization is not None and not any(kept[name].dtype == np.int8 for name in kept):
        on_devices: Mapping[str, jax.Array] = QuantizedWeights(placed(weights, layout, before_quantization(dtype_of)))
    else:
        on_devices = placed(weights, layout, dtype_of)
    return Llama(part, on_devices, dtype, AXIS if layout.mesh is not None else None)


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
