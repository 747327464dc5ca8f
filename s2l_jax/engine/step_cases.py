"""Whole engine steps of real models, to be compiled for devices that are not there: `kernels_pallas.gate` does it.

What an engine runs is made of four kinds of executable (`DeviceCode`), and all groups of layers share one, so a group
stands for the whole model. The kernels in it are those of `kernels_pallas.gate.cases`, which has their reports.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
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
from s2l_jax.engine.placement import WHOLE
from s2l_jax.engine.sample_packing import ROW_WORDS
from s2l_jax.models.config import ModelConfig, RopeScaling
from s2l_jax.models.llama import Llama, weight_shapes
from s2l_jax.models.quantization import is_quantized, scale_name
from s2l_jax.models.sharding import AXIS, PAGES, PartOfWeights

LAYERS = 1
_ROPE = RopeScaling("llama3", 8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position=8192)
_LLAMA_8B = ModelConfig("Llama-3.1-8B", 128256, 4096, 14336, 32, 32, 8, 128, 131072, rope_theta=5e5, rope_scaling=_ROPE)
_LLAMA_70B = replace(
    _LLAMA_8B, name="Llama-3.1-70B", hidden_size=8192, intermediate_size=28672, num_layers=80, num_q_heads=64
)
_PAGE_SIZE, _POOL_PAGES, _SESSIONS, _BLOCKS = 64, 8192, 256, 128
_SHAPES = {"decode": ForwardShape(64, 64, _BLOCKS), "prefill": ForwardShape(2048, 64, _BLOCKS)}
_GPUS = {"sm_90", "sm_100"}
_ENDS_ON = {1, 8}  # devices: what lies between differs in nothing but sizes


@dataclass(frozen=True, slots=True)
class Deployment:
    """A model on so many devices, its weights maybe in int8."""

    model: ModelConfig
    devices: int
    is_int8: bool = False

    def __str__(self) -> str:
        return f"{self.model.name} on {self.devices}{', int8' if self.is_int8 else ''}"


DEPLOYMENTS = (*(Deployment(_LLAMA_8B, devices) for devices in (1, 2, 4, 8)), Deployment(_LLAMA_70B, 8))
_INT8 = Deployment(_LLAMA_8B, 1, is_int8=True)
_INT8_TARGETS = {"v6e", "sm_90"}  # one of each maker


def cases_of(target: str) -> Mapping[str, Callable[[], Case]]:
    """Makers of the steps of all deployments, by name; none for GPUs that have no kernels of their own."""
    if target.startswith("sm_") and target not in _GPUS:
        return {}
    makers: dict[str, Callable[[], Case]] = {}
    for deployment in (*DEPLOYMENTS, *([_INT8] if target in _INT8_TARGETS else [])):
        for step, shape in _SHAPES.items():
            name = f"{step}, {LAYERS} layer of {deployment}"
            makers[name] = functools.partial(_layers, name, deployment, shape)
        if deployment.devices in _ENDS_ON and not deployment.is_int8:  # its ends are not quantised
            name = f"embedding, norm and greedy sampling of {deployment}"
            makers[name] = functools.partial(_ends, name, deployment)
    return makers


def _layers(name: str, deployment: Deployment, shape: ForwardShape) -> Case:
    """One group of layers."""
    config = replace(deployment.model, vocab_size=deployment.devices)  # which layers know nothing of
    code = _device_code(replace(deployment, model=config))
    pool = jax.ShapeDtypeStruct(
        kv_pages_shape(_POOL_PAGES, _PAGE_SIZE, config.num_kv_heads, config.head_dim), jnp.bfloat16
    )
    x = _array(shape.tokens, config.hidden_size)
    rope = (jax.ShapeDtypeStruct((shape.tokens, config.head_dim // 2), jnp.float32),) * 2
    packed = jax.ShapeDtypeStruct((packed_size(shape),), jnp.int32)
    in_specs = (code.group_specs, (PAGES,) * LAYERS, WHOLE, (WHOLE,) * 2, WHOLE)
    return Case(
        name=name,
        function=code.layers(shape),
        shapes=(_whole(code.groups[0], code.group_specs, deployment), (pool,) * LAYERS, x, rope, packed),
        donated=(1, 2),
        pool_bytes=pool.size * pool.dtype.itemsize // deployment.devices,
        specs=in_specs,
        devices=deployment.devices,
        collectives={"all-reduce": 2 * LAYERS} if deployment.devices > 1 else {},
    )


def _ends(name: str, deployment: Deployment) -> Case:
    """What comes before and after the layers of a decode step, and greedy sampling."""
    config, shape = deployment.model, _SHAPES["decode"]
    code = _device_code(deployment)
    embed, finish = code.embed(shape), code.finish(shape)
    sample = code.sample(SampleShape(shape.sequences, Variant.GREEDY, 0))

    def ends(arrays: Any, last_hidden: Any, last_tokens: Any, packed: Any, rows: Any) -> Any:
        x, _ = embed(arrays, last_tokens, packed)
        last_hidden, _ = finish(arrays, last_hidden, x, packed)
        return last_hidden, sample(arrays, last_hidden, last_tokens, rows)

    in_specs = (code.end_specs, *[WHOLE] * 4)
    shapes = (
        _whole(code.ends, code.end_specs, deployment),
        _array(_SESSIONS, config.hidden_size),
        jax.ShapeDtypeStruct((_SESSIONS,), jnp.int32),
        jax.ShapeDtypeStruct((packed_size(shape),), jnp.int32),
        jax.ShapeDtypeStruct((shape.sequences, ROW_WORDS), jnp.int32),
    )
    return Case(
        name=name,
        function=ends,
        shapes=shapes,
        donated=(1, 2),
        pool_bytes=config.vocab_size * config.hidden_size * 2 // deployment.devices,
        specs=in_specs,
        devices=deployment.devices,
        collectives={"all-reduce": 1, "all-gather": 1} if deployment.devices > 1 else {},
    )


def _device_code(deployment: Deployment) -> DeviceCode:
    """The functions; its arrays are only shapes, of one device's part."""
    whole, devices = replace(deployment.model, num_layers=LAYERS), deployment.devices
    weights: dict[str, np.ndarray] = {}
    for name, shape in weight_shapes(whole).items():
        becomes_int8 = deployment.is_int8 and is_quantized(name)
        weights[name] = np.broadcast_to(np.zeros((), np.int8 if becomes_int8 else np.float16), shape)
        if becomes_int8:
            weights[scale_name(name)] = np.broadcast_to(np.zeros((), np.float32), shape[:1])
    part = PartOfWeights(weights, 0, devices)
    model = nnx.eval_shape(lambda: Llama(whole.part(devices), part, jnp.bfloat16, AXIS))
    return DeviceCode(model, LAYERS)


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
