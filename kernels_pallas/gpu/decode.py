"""Attention of sequences with one query token each: bound by reading KV, so the query heads of a group share it.

The KV of all sequences is split into units of equal length (flash-decoding, split by the batch's total as FlashInfer
does, arXiv 2501.01005). A block of threads takes one unit and one KV head; each of its warpgroups has half of the unit
and a ring of blocks of its own, so that they need not wait for each other. What they find is combined by weight.

The query heads of a group are a few of the 64 or 128 rows of a matrix product; the other rows cost tensor core cycles
that are idle anyway. By the data sheet of an H100 (989 Tflop/s, 3.35 TB/s) both products with 64 rows take 22% of the
time that reading the KV takes, whatever the size of the heads.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Float, Int, Num

from kernels_pallas.gpu.blocks import Blocks
from kernels_pallas.gpu.memory import shared_matrix, store_rows
from kernels_pallas.gpu.softmax import Rows
from kernels_pallas.gpu.stream import BlockStream, copies
from kernels_pallas.gpu.tensor_cores import scratch_of, tensor_cores
from kernels_pallas.gpu.units import Units
from kernels_pallas.scores import MASKED, Scores

type Ref = Any

_TINY = 1e-30


def decode(
    q: Float[Array, "seqs kv_heads rows head_dim"],
    kv_pages: Num[Array, "pages kv_heads page_size kv_dim"],
    tables: Int[Array, "seqs table_pages"],
    kv_lens: Int[Array, "seqs"],
    units: Units,
    scores: Scores,
    blocks: Blocks,
    *,
    blackwell: bool,
) -> Float[Array, "seqs kv_heads rows head_dim"]:
    """Attends for the sequences that have units; the others come back as zero.

    Args:
      q: queries of each sequence; rows are the query heads of a KV head, padded to a multiple of 8.
      kv_pages: as in `paged_attention`.
      tables: likewise.
      kv_lens: likewise.
      units: of `decode_units`.
      scores: how they are made.
      blocks: sizes.
      blackwell: whether to use the tensor cores of Blackwell.
    """
    seqs, kv_heads, rows, head_dim = q.shape
    page_size = kv_pages.shape[2]
    num_units, parts = units.seqs.shape[0], blocks.warpgroups

    scratch = {
        "queries": shared_matrix(blocks.rows, head_dim, columns=blocks.columns),
        "weights": shared_matrix(parts, blocks.rows, blocks.tokens, columns=blocks.columns),
        "buffer": shared_matrix(parts, blocks.slots, blocks.tokens, 2 * head_dim, columns=blocks.columns),
        "sizes": plgpu.SMEM((parts, blocks.rows), jnp.float32),
        "queries_arrived": plgpu.Barrier(),
        "arrived": plgpu.Barrier(num_arrivals=copies(page_size, blocks.tokens), num_barriers=parts * blocks.slots),
        **scratch_of(blocks, blackwell=blackwell),
    }
    out, sizes = plgpu.kernel(
        functools.partial(_kernel, scores=scores, blocks=blocks),
        out_type=(
            jax.ShapeDtypeStruct((num_units, kv_heads, parts, rows, head_dim), q.dtype),
            jax.ShapeDtypeStruct((num_units, kv_heads, parts, rows), jnp.float32),
        ),
        grid=(num_units, kv_heads),
        grid_names=("unit", "kv_head"),
        num_threads=parts,
        thread_name="part",
        scratch_types=scratch,
        compiler_params=plgpu.CompilerParams(approx_math=True, reduction_scratch_bytes=512),
        kernel_name="paged_decode",
    )(q, kv_pages, tables, kv_lens, *units)
    return _combine(out, sizes, units, seqs)


def _kernel(
    q: Ref,
    kv_pages: Ref,
    tables: Ref,
    kv_lens: Ref,
    seqs: Ref,
    first_blocks: Ref,
    end_blocks: Ref,
    out: Ref,
    out_sizes: Ref,
    *,
    queries: Ref,
    weights: Ref,
    buffer: Ref,
    sizes: Ref,
    queries_arrived: Ref,
    arrived: Ref,
    accumulator: Ref | None = None,
    done: Ref | None = None,
    scores: Scores,
    blocks: Blocks,
) -> None:
    unit, kv_head, part = lax.axis_index("unit"), lax.axis_index("kv_head"), lax.axis_index("part")
    parts, slots, block_tokens = blocks.warpgroups, blocks.slots, blocks.tokens
    padded_group = q.shape[2]
    first, end = first_blocks[unit], end_blocks[unit]
    half = lax.div(end - first + parts - 1, jnp.int32(parts))
    first = first + part * half
    end = jnp.minimum(first + half, end)

    @pl.when(first_blocks[unit] < end_blocks[unit])
    def _unit() -> None:
        seq = seqs[unit]
        kv_len = kv_lens[seq]
        stream = BlockStream(kv_pages, tables, seq, kv_head, kv_len, buffer.at[part], arrived, part * slots)
        for number in range(slots - 1):
            pl.when(first + number < end)(functools.partial(stream.fetch, first + number, number))

        @pl.when(part == 0)
        def _queries() -> None:
            plgpu.copy_gmem_to_smem(q.at[seq, kv_head], queries.at[pl.ds(0, padded_group)], queries_arrived)

        plgpu.barrier_wait(queries_arrived)
        cores = tensor_cores(blocks, accumulator, done, part)
        # The only token is the last one; rows of padding come to the same position.
        rows = Rows(
            queries, weights.at[part], kv_len - 1, 0, blocks.rows, blocks.columns, 0, queries.shape[1], scores, cores
        )

        def step(block: Any, state: Any, *, masked: bool) -> Any:
            slot = stream.slot(block, first)
            stream.wait(slot)
            # The slot that was read in the step before is free.
            ahead = block + (slots - 1)
            pl.when(ahead < end)(lambda: stream.fetch(ahead, stream.slot(ahead, first)))
            piece = buffer.at[part, slot]
            if masked:

                @pl.when((block + 1) * block_tokens > kv_len)
                def _tail() -> None:
                    rows.clear_tail(piece, kv_len - block * block_tokens, 0, 1)

            return rows.attend(state, piece, block * block_tokens, masked=masked)

        # Only the last block may end early; with a window the first ones may begin late.
        whole = jnp.minimum(end, lax.div(kv_len, jnp.int32(block_tokens)))
        if scores.sliding_window is not None:
            whole = jnp.minimum(whole, first)
        state = lax.fori_loop(first, whole, functools.partial(step, masked=False), rows.begin())
        largest, total, sums = lax.fori_loop(
            jnp.maximum(whole, first), end, functools.partial(step, masked=True), state
        )
        total = jnp.maximum(total, _TINY)  # a part without blocks
        sizes.at[part][...] = largest + jnp.log2(total)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(sizes.at[part, pl.ds(0, padded_group)], out_sizes.at[unit, kv_head, part])
        for number, columns_sum in enumerate(sums):
            mean = columns_sum / lax.broadcast_in_dim(total, columns_sum.shape, [0])
            store_rows(
                weights.at[part, :, pl.ds(0, blocks.columns)],
                out.at[unit, kv_head, part],
                mean,
                number * blocks.columns,
            )


def _combine(
    out: Float[Array, "units kv_heads parts rows head_dim"],
    sizes: Float[Array, "units kv_heads parts rows"],
    units: Units,
    seqs: int,
) -> Float[Array, "seqs kv_heads rows head_dim"]:
    """Means of the parts of each sequence, weighted by their sums of exponentials; `sizes` are their logarithms."""
    live = (units.end_blocks > units.first_blocks)[:, None, None, None]
    sizes = jnp.where(live, sizes, MASKED)
    mine = units.seqs == jnp.arange(seqs)[:, None]
    of_seqs = jnp.where(mine[:, :, None, None, None], sizes, MASKED)
    weights = jnp.exp2(of_seqs - of_seqs.max(axis=(1, 3), keepdims=True)) * mine[:, :, None, None, None]
    total = weights.sum(axis=(1, 3))[..., None]
    mean = jnp.einsum(
        "suhpr,uhprd->shrd",
        weights,
        jnp.where(live[..., None], out, 0).astype(jnp.float32),
        precision=lax.Precision.HIGHEST,
    )
    return (mean / jnp.where(total == 0.0, 1.0, total)).astype(out.dtype)
