"""How the arrays of a tensor-parallel decoder lie on the devices of a mesh axis."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec

_BY_ROWS = ("qkv", "gate_up")
_BY_COLUMNS = ("output", "down")
_BY_VOCABULARY = ("embedding", "lm_head")


def weight_specs(state: Any, axis: str) -> Any:
    """Where each array of a model's or a layer's state lies, as a tree of the same shape; see `Llama`."""

    def spec(path: Sequence[Any], _: Any) -> PartitionSpec:
        return _weight_spec([str(part.key) for part in path if hasattr(part, "key")], axis)

    return jax.tree_util.tree_map_with_path(spec, state)


def pages_spec(axis: str) -> PartitionSpec:
    """KV pages: each device has its heads of all of them."""
    return PartitionSpec(None, axis, None, None)


def _weight_spec(path: Sequence[str], axis: str) -> PartitionSpec:
    if any(name in path for name in _BY_VOCABULARY):
        return PartitionSpec(axis, None)
    if any(name in path for name in _BY_ROWS):
        return PartitionSpec(axis, None) if "weight" in path else PartitionSpec(axis)
    if any(name in path for name in _BY_COLUMNS) and "weight" in path:
        return PartitionSpec(None, axis)
    return PartitionSpec()
