"""Attention of sequences with one query token each: bound by reading KV, which all heads do at once."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int, Num

from kernels_pallas.scores import MASKED
from kernels_pallas.tpu.blocks import DecodeBlocks
from kernels_pallas.tpu.numerics import LANES, LOWEST, Numerics, across, dot, lane_sums, normalized
from kernels_pallas.tpu.stream import CURSOR_SIZE, BlockStream
from kernels_pallas.tpu.tiles import Tiles

type Ref = Any
type Value = Any

ROWS = 8  # query heads of a KV head are padded to a register's rows


def decode(
    q: Float[Array, "seqs kv_heads rows lanes"],
    kv_pages: Num[Array, "pages kv_heads page_size kv_dim"],
    tables: Int[Array, "seqs blocks"],
    tiles: Tiles,
    numerics: Numerics,
    blocks: DecodeBlocks,
) -> Float[Array, "seqs kv_heads rows lanes"]:
    """Attends for the first `tiles.number` sequences; others come back as whatever was in memory.

    Args:
      q: scaled queries of each sequence; rows are the query heads of a KV head and padding.
      kv_pages: as in `paged_attention`.
      tables: likewise.
      tiles: of `decode_tiles`.
      numerics: of the scores.
      blocks: sizes.
    """
    seqs, kv_heads, rows, lanes = q.shape
    _, _, page_size, kv_dim = kv_pages.shape
    tile_spec = functools.partial(pl.BlockSpec, index_map=lambda tile, *_: (tile, 0, 0, 0))
    grid_spec = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=5,
        grid=(tiles.number[0],),
        in_specs=[tile_spec((1, kv_heads, rows, lanes)), pl.BlockSpec(memory_space=pltpu.HBM)],
        out_specs=tile_spec((1, kv_heads, rows, lanes)),
        scratch_shapes=[
            pltpu.VMEM((blocks.slots, blocks.tokens // page_size, kv_heads, page_size, kv_dim), kv_pages.dtype),
            pltpu.SemaphoreType.DMA((blocks.slots,)),
            pltpu.SMEM((CURSOR_SIZE,), jnp.int32),
            pltpu.VMEM((kv_heads, rows, LANES), jnp.float32),
            pltpu.VMEM((kv_heads, rows, LANES), jnp.float32),
            pltpu.VMEM((kv_heads, rows, lanes), jnp.float32),
        ],
    )
    return pl.pallas_call(
        functools.partial(_kernel, table_pages=tables.shape[1], heads_ahead=blocks.heads_ahead, numerics=numerics),
        out_shape=jax.ShapeDtypeStruct((seqs, kv_heads, rows, lanes), q.dtype),
        grid_spec=grid_spec,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",), vmem_limit_bytes=blocks.vmem_limit_bytes, disable_bounds_checks=True
        ),
        name=f"paged_decode_{blocks.tokens}",  # the gate divides bundles by tokens
    )(tables.reshape(-1), tiles.number, tiles.seqs, tiles.positions, tiles.ends, q, kv_pages)


def _kernel(
    tables: Ref,
    num_tiles: Ref,
    seqs: Ref,
    positions: Ref,
    ends: Ref,
    q: Ref,
    kv_pages: Ref,
    out: Ref,
    buffer: Ref,
    semaphores: Ref,
    cursor: Ref,
    largest: Ref,
    total: Ref,
    acc: Ref,
    *,
    table_pages: int,
    heads_ahead: int,
    numerics: Numerics,
) -> None:
    stream = BlockStream(
        kv_pages,
        tables,
        table_pages,
        num_tiles,
        seqs,
        positions,
        ends,
        buffer,
        semaphores,
        cursor,
        numerics.sliding_window,
    )
    tile = pl.program_id(0)
    pl.when(tile == 0)(stream.begin)
    largest[...] = jnp.full(largest.shape, LOWEST, jnp.float32)
    total[...] = jnp.zeros(total.shape, jnp.float32)
    acc[...] = jnp.zeros(acc.shape, jnp.float32)
    kv_heads = q.shape[1]

    def attend(slot: Any, first_token: Any, masked: bool) -> None:
        columns = first_token + lax.broadcasted_iota(jnp.int32, (1, stream.block_tokens), 1)
        mask = numerics.sees(positions[tile], columns) if masked else None
        # Scores are computed some heads ahead, so that a matrix unit has work while a softmax waits for a maximum.
        scores = []
        for head in range(kv_heads + heads_ahead):
            if head < kv_heads:
                keys = numerics.keys(buffer.at[slot, :, head], q.dtype)
                scores.append(numerics.exponents(dot(q[0, head], keys, transposed=True)))
            done = head - heads_ahead
            if done >= 0:
                values = numerics.values(buffer.at[slot, :, done], q.dtype)
                _add_block(scores[done], mask, values, largest.at[done], total.at[done], acc.at[done])

    stream.for_each_block(tile, attend)
    for head in range(kv_heads):
        out[0, head] = normalized(acc[head], total[head]).astype(out.dtype)


def _add_block(scores: Value, mask: Value | None, values: Value, largest: Ref, total: Ref, acc: Ref) -> None:
    """One step of the online softmax, of one KV head."""
    if mask is not None:
        scores = jnp.where(mask, scores, MASKED)
    before = largest[...]
    now = jnp.maximum(before, jnp.max(scores, axis=1, keepdims=True))
    weights = jnp.exp2(scores - across(now, scores.shape[1]))
    shrink = jnp.exp2(before - now)
    largest[...] = now
    total[...] = total[...] * shrink + lane_sums(weights)
    acc[...] = acc[...] * across(shrink, acc.shape[1]) + dot(weights.astype(values.dtype), values)
