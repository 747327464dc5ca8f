"""Whole engine steps of real models, to be compiled for devices that are not there: `kernels_pallas.gate` does it.

What an engine runs is made of four kinds of executable (`DeviceCode`), and all groups of layers share one, so a group
stands for the whole model.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from kernels_pallas.attention import kv_pages_shape
from kernels_pallas.gate.case import Case
from s2l_jax.engine.buckets import ForwardShape, SampleShape, Variant
from s2l_jax.engine.device_code import DeviceCode
from s2l_jax.engine.packing import packed_size
from s2l_jax.engine.sample_packing import ROW_WORDS
from s2l_jax.models.config import ModelConfig, RopeScaling
from s2l_jax.models.llama import Llama, weight_shapes
from s2l_jax.models.sharding import pages_spec, weight_specs

AXIS = "model"
LAYERS = 2
_ROPE = RopeScaling("llama3", 8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position=8192)
_LLAMA_8B = ModelConfig("Llama-3.1-8B", 128256, 4096, 14336, 32, 32, 8, 128, 131072, rope_theta=5e5, rope_scaling=_ROPE)
_LLAMA_70B = replace(
    _LLAMA_8B, name="Llama-3.1-70B", hidden_size=8192, intermediate_size=28672, num_layers=80, num_q_heads=64
)
_PAGE_SIZE, _POOL_PAGES, _SESSIONS, _BLOCKS = 64, 2048, 256, 128
_SHAPES = {"decode": ForwardShape(64, 64, _BLOCKS), "prefill": ForwardShape(2048, 64, _BLOCKS)}
_GPUS = {"sm_90", "sm_100"}


@dataclass(frozen=True, slots=True)
class Deployment:
    """A model on so many devices."""

    model: ModelConfig
    devices: int

    def __str__(self) -> str:
        return f"{self.model.name} on {self.devices}"


DEPLOYMENTS = (*(Deployment(_LLAMA_8B, devices) for devices in (1, 2, 4, 8)), Deployment(_LLAMA_70B, 8))


def cases_of(target: str) -> Sequence[Case]:
    """Steps of all deployments; none for GPUs that have no kernels of their own."""
    if target.startswith("sm_") and target not in _GPUS:
        return ()
    cases = []
    for deployment in DEPLOYMENTS:
        cases += [_layers(deployment, name, shape) for name, shape in _SHAPES.items()]
        cases.append(_ends(deployment))
    return tuple(cases)


def _layers(deployment: Deployment, name: str, shape: ForwardShape) -> Case:
    """One group of layers."""
    code, specs = _device_code(deployment)
    config = deployment.model
    pool = jax.ShapeDtypeStruct(
        kv_pages_shape(_POOL_PAGES, _PAGE_SIZE, config.num_kv_heads, config.head_dim), jnp.bfloat16
    )
    x = _array(shape.tokens, config.hidden_size)
    rope = (jax.ShapeDtypeStruct((shape.tokens, config.head_dim // 2), jnp.float32),) * 2
    packed = jax.ShapeDtypeStruct((packed_size(shape),), jnp.int32)
    one = pages_spec(AXIS)
    in_specs = (specs["group"], (one,) * LAYERS, PartitionSpec(), (PartitionSpec(),) * 2, PartitionSpec())
    return Case(
        name=f"{name}, {LAYERS} layers of {deployment}",
        function=_sharded(code.layers(shape), in_specs, (PartitionSpec(), (one,) * LAYERS)),
        shapes=(_whole(code.groups[0], specs["group"], deployment), (pool,) * LAYERS, x, rope, packed),
        donated=(1, 2),
        pool_bytes=pool.size * pool.dtype.itemsize // deployment.devices,
        specs=in_specs,
        devices=deployment.devices,
        collectives={"all-reduce": 2 * LAYERS} if deployment.devices > 1 else {},
    )


def _ends(deployment: Deployment) -> Case:
    """What comes before and after the layers of a decode step, and greedy sampling."""
    code, specs = _device_code(deployment)
    config, shape = deployment.model, _SHAPES["decode"]
    embed, finish = code.embed(shape), code.finish(shape)
    sample = code.sample(SampleShape(shape.sequences, Variant.GREEDY, 0))

    def ends(arrays: Any, last_hidden: Any, last_tokens: Any, packed: Any, rows: Any) -> Any:
        x, _ = embed(arrays, last_tokens, packed)
        last_hidden, _ = finish(arrays, last_hidden, x, packed)
        return last_hidden, sample(arrays, last_hidden, last_tokens, rows)

    in_specs = (specs["ends"], *[PartitionSpec()] * 4)
    shapes = (
        _whole(code.ends, specs["ends"], deployment),
        _array(_SESSIONS, config.hidden_size),
        jax.ShapeDtypeStruct((_SESSIONS,), jnp.int32),
        jax.ShapeDtypeStruct((packed_size(shape),), jnp.int32),
        jax.ShapeDtypeStruct((shape.sequences, ROW_WORDS), jnp.int32),
    )
    return Case(
        name=f"embedding, norm and greedy sampling of {deployment}",
        function=_sharded(ends, in_specs, PartitionSpec()),
        shapes=shapes,
        donated=(1, 2),
        pool_bytes=config.vocab_size * config.hidden_size * 2 // deployment.devices,
        specs=in_specs,
        devices=deployment.devices,
        collectives={"all-reduce": 1, "all-gather": 1} if deployment.devices > 1 else {},
    )


@functools.cache
def _device_code(deployment: Deployment) -> tuple[DeviceCode, dict[str, Any]]:
    """The functions of one device's part, its arrays as shapes only, and where they lie."""
    config = replace(deployment.model.part(deployment.devices), num_layers=LAYERS)
    nothing = np.zeros((), np.float32)
    weights = {name: np.broadcast_to(nothing, shape) for name, shape in weight_shapes(config).items()}
    model = nnx.eval_shape(lambda: Llama(config, weights, jnp.bfloat16, AXIS))
    code = DeviceCode(model, LAYERS)
    layer_specs = jax.tree.leaves(weight_specs(nnx.split(model.layers[0])[1], AXIS), is_leaf=_is_spec)
    end_specs = weight_specs({name: part for name, part in nnx.split(model)[1].items() if name != "layers"}, AXIS)
    return code, {"group": tuple(layer_specs) * LAYERS, "ends": tuple(jax.tree.leaves(end_specs, is_leaf=_is_spec))}


def _sharded(function: Any, in_specs: Any, out_specs: Any) -> Any:
    """`function` on each device of the mesh in use."""
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _whole(parts: Sequence[Any], specs: Sequence[PartitionSpec], deployment: Deployment) -> Any:
    """Shapes of arrays on all devices together, from those of one device's parts."""
    found = []
    for part, spec in zip(parts, specs, strict=True):
        axes = [*spec, *[None] * (len(part.shape) - len(spec))]
        shape = [length * (deployment.devices if name else 1) for length, name in zip(part.shape, axes, strict=True)]
        found.append(jax.ShapeDtypeStruct(tuple(shape), part.dtype))
    return tuple(found)


def _array(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16)


def _is_spec(value: Any) -> bool:
    return isinstance(value, PartitionSpec)
