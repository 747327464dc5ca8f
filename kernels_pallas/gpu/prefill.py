"""Attention of chunks of query tokens: bound by the tensor cores, so many query rows share each block of KV.

A block of threads takes one tile of queries of a sequence and one KV head. Rows of a tile are (token, query head of the
group), so grouped heads share KV too. One warpgroup does nothing but start copies; the others multiply (the division
of labour of FlashAttention-3, arXiv 2407.08608).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int, Num

from kernels_pallas.gpu.blocks import Blocks
from kernels_pallas.gpu.memory import shared_matrix
from kernels_pallas.gpu.softmax import Rows
from kernels_pallas.gpu.stream import BlockStream, copies
from kernels_pallas.gpu.tensor_cores import scratch_of, tensor_cores
from kernels_pallas.gpu.units import Tiles
from kernels_pallas.scores import Scores

type Ref = Any

_COPY_REGISTERS = 48


def prefill(
    q: Float[Array, "tiles kv_heads rows head_dim"],
    kv_pages: Num[Array, "pages kv_heads page_size kv_dim"],
    tables: Int[Array, "seqs table_pages"],
    tiles: Tiles,
    group: int,
    scores: Scores,
    blocks: Blocks,
    *,
    blackwell: bool,
) -> Float[Array, "tiles kv_heads rows head_dim"]:
    """Attends for all tiles; of those that do not exist, and of rows behind a chunk's end, the result has no meaning.

    Args:
      q: queries of each tile; a row is a query head of a token, heads of a token behind each other.
      kv_pages: as in `paged_attention`.
      tables: likewise.
      tiles: of `prefill_tiles`.
      group: query heads of a KV head.
      scores: how they are made.
      blocks: sizes; `blocks.tile_rows` are the rows of `q`.
      blackwell: whether to use the tensor cores of Blackwell.
    """
    num_tiles, kv_heads, _, head_dim = q.shape
    workers = blocks.warpgroups
    scratch = {
        "queries": shared_matrix(workers // blocks.sharers, blocks.rows, head_dim, columns=blocks.columns),
        "weights": shared_matrix(workers, blocks.rows, blocks.tokens, columns=blocks.columns),
        "buffer": shared_matrix(blocks.slots, blocks.tokens, 2 * head_dim, columns=blocks.columns),
        "queries_arrived": plgpu.Barrier(num_barriers=workers // blocks.sharers),
        "arrived": plgpu.Barrier(num_arrivals=copies(kv_pages.shape[2], blocks.tokens), num_barriers=blocks.slots),
        "read": plgpu.Barrier(num_arrivals=workers, num_barriers=blocks.slots),
        "cleared": plgpu.Barrier(num_arrivals=workers),
        "finished": plgpu.Barrier(num_arrivals=blocks.sharers, num_barriers=workers // blocks.sharers),
        **scratch_of(blocks, blackwell=blackwell),
    }
    return plgpu.kernel(
        functools.partial(_kernel, group=group, scores=scores, blocks=blocks),
        out_type=jax.ShapeDtypeStruct(q.shape, q.dtype),
        grid=(num_tiles, kv_heads),
        grid_names=("tile", "kv_head"),
        num_threads=workers + 1,
        thread_name="warpgroup",
        scratch_types=scratch,
        compiler_params=plgpu.CompilerParams(approx_math=True, reduction_scratch_bytes=512),
        kernel_name="paged_prefill",
    )(q, kv_pages, tables, tiles.seqs, tiles.positions, tiles.end_tokens)


def _kernel(
    q: Ref,
    kv_pages: Ref,
    tables: Ref,
    seqs: Ref,
    positions: Ref,
    end_tokens: Ref,
    out: Ref,
    *,
    queries: Ref,
    weights: Ref,
    buffer: Ref,
    queries_arrived: Ref,
    arrived: Ref,
    read: Ref,
    cleared: Ref,
    finished: Ref,
    accumulator: Ref | None = None,
    done: Ref | None = None,
    group: int,
    scores: Scores,
    blocks: Blocks,
) -> None:
    tile, kv_head, worker = lax.axis_index("tile"), lax.axis_index("kv_head"), lax.axis_index("warpgroup")
    workers, rows, slots, block_tokens = blocks.warpgroups, blocks.rows, blocks.slots, blocks.tokens
    position, end_token = positions[tile], end_tokens[tile]
    first = lax.div(scores.first_token(position), jnp.int32(block_tokens))
    end = lax.div(end_token + (block_tokens - 1), jnp.int32(block_tokens))
    stream = BlockStream(kv_pages, tables, seqs[tile], kv_head, end_token, buffer, arrived, 0)

    @pl.when((end_token > 0) & (worker == workers))
    def _copy() -> None:
        plgpu.set_max_registers(_COPY_REGISTERS, action="decrease")

        def start(block: Any, _: None) -> None:
            slot = stream.slot(block, first)
            pl.when(block >= first + slots)(lambda: plgpu.barrier_wait(read.at[slot]))
            stream.fetch(block, slot)

        lax.fori_loop(first, end, start, None)

    @pl.when((end_token > 0) & (worker < workers))
    def _attend() -> None:
        plgpu.set_max_registers(_worker_registers(workers), action="increase")
        place, share = lax.div(worker, jnp.int32(blocks.sharers)), lax.rem(worker, jnp.int32(blocks.sharers))
        mine = queries.at[place]
        mine_in_tile = pl.ds(place * rows, rows)

        @pl.when(share == 0)
        def _queries() -> None:
            plgpu.copy_gmem_to_smem(q.at[tile, kv_head, mine_in_tile], mine, queries_arrived.at[place])

        plgpu.barrier_wait(queries_arrived.at[place])
        cores = tensor_cores(blocks, accumulator, done, worker)
        value_columns = queries.shape[2] // blocks.sharers
        first_value = share * value_columns
        attention = Rows(
            mine,
            weights.at[worker],
            position,
            place * rows,
            group,
            blocks.columns,
            first_value,
            value_columns,
            scores,
            cores,
        )

        def step(block: Any, state: Any, *, masked: bool) -> Any:
            slot = stream.slot(block, first)
            stream.wait(slot)
            piece = buffer.at[slot]
            if masked:

                @pl.when((block + 1) * block_tokens > end_token)
                def _tail() -> None:
                    # Only the last block of the tile. All wait until all have cleared their columns.
                    attention.clear_tail(piece, end_token - block * block_tokens, worker, workers)
                    _meet(cleared)

            state = attention.attend(state, piece, block * block_tokens, masked=masked)
            plgpu.barrier_arrive(read.at[slot])
            return state

        # Blocks that the tile's first token sees all of need no mask.
        whole = jnp.minimum(end, lax.div(position + 1, jnp.int32(block_tokens)))
        if scores.sliding_window is not None:
            whole = first
        state = lax.fori_loop(first, whole, functools.partial(step, masked=False), attention.begin())
        _, total, sums = lax.fori_loop(whole, end, functools.partial(step, masked=True), state)
        # The result takes the place of the queries once nobody reads them, and leaves when all of it is there.
        _meet(finished.at[place])
        for number, columns_sum in enumerate(sums):
            mean = columns_sum / lax.broadcast_in_dim(total, columns_sum.shape, [0])
            mine.at[:, pl.ds(first_value + number * blocks.columns, blocks.columns)][...] = mean.astype(mine.dtype)
        plgpu.commit_smem()
        _meet(finished.at[place])

        @pl.when(share == 0)
        def _put_out() -> None:
            plgpu.copy_smem_to_gmem(mine, out.at[tile, kv_head, mine_in_tile])
            plgpu.wait_smem_to_gmem(0)


def _meet(barrier: Ref) -> None:
    """Waits until all who share a barrier are here."""
    plgpu.barrier_arrive(barrier)
    plgpu.barrier_wait(barrier)


def _worker_registers(workers: int) -> int:
    """Registers of a thread that multiplies: what the copying warpgroup leaves of 65,536, in steps of eight."""
    return min(248, (512 - _COPY_REGISTERS) // workers // 8 * 8)
