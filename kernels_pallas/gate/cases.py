"""What is compiled: front-door calls at the shapes of real models."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from kernels_pallas.attention import paged_attention
from kernels_pallas.gate.case import Case
from kernels_pallas.pages import gather_pages, kv_pages_shape, scatter_pages, write_kv

_SEQUENCES = 64
_CONTEXT_TOKENS = 8192
_POOL_TOKENS = 1 << 17
_LAYERS = 2


@dataclass(frozen=True, slots=True)
class Heads:
    """Heads of a model, or of one shard of it."""

    query: int
    kv: int
    dim: int

    def __str__(self) -> str:
        return f"{self.query}/{self.kv} heads of {self.dim}"


_KERNELS = {
    "v5e": "mosaic_tpu",
    "v5p": "mosaic_tpu",
    "v6e": "mosaic_tpu",
    "v7x": "mosaic_tpu",
    "sm_80": "xla",
    "sm_90": "mosaic_gpu",
    "sm_100": "mosaic_gpu",
}

_MANY_SHAPES = ("v6e", "sm_90")

LLAMA_8B = Heads(32, 8, 128)
LLAMA_SHARDS = (Heads(4, 1, 128), Heads(16, 4, 128), Heads(8, 2, 128), Heads(8, 1, 128))  # 8B on 8, 2, 4; 70B on 8


def attention_case(
    implementation: str,
    heads: Heads = LLAMA_8B,
    page_size: int = 64,
    *,
    kv_dtype: str = "bfloat16",
    tokens: int = 1024,
    sliding_window: int | None = None,
    soft_cap: float | None = None,
    may_spill_bytes: int = 0,
) -> Case:
    """A step that decodes and prefills, up to 64 sequences of up to 8,192 tokens."""
    function = functools.partial(
        _attend,
        scale=heads.dim**-0.5,
        sliding_window=sliding_window,
        soft_cap=soft_cap,
        implementation=implementation,
    )
    pool = _pool(heads, page_size, kv_dtype)
    shapes = (
        _shape((tokens, heads.query, heads.dim), "bfloat16"),
        pool,
        _shape((_SEQUENCES, _CONTEXT_TOKENS // page_size), "int32"),
        _shape((_SEQUENCES + 1,), "int32"),
        _shape((_SEQUENCES,), "int32"),
        _shape((), "int32"),
        _shape((), "int32"),
    )
    extras = [kv_dtype] if kv_dtype != "bfloat16" else []
    extras += [f"window {sliding_window}"] if sliding_window else []
    extras += [f"soft cap {soft_cap:g}"] if soft_cap else []
    name = ", ".join([f"attention {implementation}", str(heads), f"page {page_size}", *extras])
    return Case(name, function, shapes, (), _bytes(pool), may_spill_bytes=may_spill_bytes)


def write_case(tokens: int, heads: Heads = LLAMA_8B, page_size: int = 64) -> Case:
    """New tokens into their pages, in place."""
    pool = _pool(heads, page_size, "bfloat16")
    rows = _shape((tokens, heads.kv, heads.dim), "bfloat16")
    shapes = (pool, rows, rows, _shape((tokens,), "int32"))
    write = functools.partial(write_kv, max_seqs=_SEQUENCES)
    return Case(f"write_kv, {tokens} tokens, {heads}, page {page_size}", write, shapes, (0,), _bytes(pool))


def gather_case(heads: Heads = LLAMA_8B, page_size: int = 64, blocks: int = 32) -> Case:
    """Pages of two layers out of their pools."""
    pool = _pool(heads, page_size, "bfloat16")
    shapes = (*[pool] * _LAYERS, _shape((blocks,), "int32"))
    return Case(f"gather_pages, {blocks} of page {page_size}", _gather, shapes, (), _bytes(pool))


def scatter_case(heads: Heads = LLAMA_8B, page_size: int = 64, blocks: int = 32) -> Case:
    """Pages of two layers into their pools, in place."""
    pool = _pool(heads, page_size, "bfloat16")
    contents = _shape((blocks, _LAYERS, *pool.shape[1:]), "bfloat16")
    shapes = (*[pool] * _LAYERS, _shape((blocks,), "int32"), contents)
    donated = tuple(range(_LAYERS))
    return Case(f"scatter_pages, {blocks} of page {page_size}", _scatter, shapes, donated, _bytes(pool))


def cases_of(target: str) -> Mapping[str, Callable[[], Case]]:
    """Makers of all cases of a target, by name."""
    return {case.name: functools.partial(lambda made: made, case) for case in all_cases(target)}


def all_cases(target: str) -> Sequence[Case]:
    """All cases of a target, in the order of the report: many shapes for one chip of each maker, few for others."""
    copies = (write_case(64), write_case(1024), gather_case(), scatter_case())
    kernel = _KERNELS[target]
    one_byte = ("int8", "float8_e4m3fn") if kernel == "mosaic_tpu" else ()
    if kernel == "xla":
        return (attention_case(kernel), *copies)
    few = (
        *(attention_case(kernel, page_size=size) for size in (16, 64)),
        # Whole steps tell of their kernels on GPUs, not on TPUs.
        *(attention_case(kernel, heads) for heads in (LLAMA_SHARDS if kernel == "mosaic_tpu" else LLAMA_SHARDS[:1])),
    )
    if target not in _MANY_SHAPES:
        return (*few, *copies)
    return (
        *few,
        *(attention_case(kernel, page_size=size) for size in (128, 256)),
        attention_case(kernel, Heads(16, 8, 64)),
        *([] if kernel == "mosaic_tpu" else [attention_case(kernel, Heads(16, 8, 96))]),
        attention_case(kernel, Heads(16, 8, 256), may_spill_bytes=16 << 10),
        *(attention_case(kernel, kv_dtype=dtype) for dtype in one_byte),
        # Cut so small that it spills nothing, prefill with a soft cap feeds matrix units less: 0.41 instead of 0.50.
        attention_case(kernel, sliding_window=1024, soft_cap=50.0, may_spill_bytes=128 << 10),
        *copies,
    )


def _attend(*arguments: Array, **options: Any) -> Array:
    *arrays, num_decodes, num_seqs = arguments
    if arrays[1].dtype.itemsize == 1:
        options["kv_scales"] = jnp.ones((2, arrays[1].shape[1]))
    return paged_attention(*arrays, num_decodes=num_decodes, num_seqs=num_seqs, **options)


def _gather(*arguments: Array) -> Array:
    return gather_pages(arguments[:-1], arguments[-1])


def _scatter(*arguments: Array) -> tuple[Array, ...]:
    return scatter_pages(arguments[:_LAYERS], arguments[_LAYERS], arguments[_LAYERS + 1])


def _pool(heads: Heads, page_size: int, dtype: str) -> jax.ShapeDtypeStruct:
    return _shape(kv_pages_shape(_POOL_TOKENS // page_size, page_size, heads.kv, heads.dim), dtype)


def _shape(shape: tuple[int, ...], dtype: str) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


def _bytes(shape: jax.ShapeDtypeStruct) -> int:
    return shape.size * shape.dtype.itemsize
