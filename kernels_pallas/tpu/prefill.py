"""Attention of chunks of queries: bound by the matrix units, so a tile of queries shares each block of KV.

A tile is cut into units: some query heads of one KV head. Units go through three stages, scores, softmax and output,
and each loop iteration does one stage for each of three units, so that the matrix units multiply for two of them while
the vector units exponentiate for the third. What passes from stage to stage is in memory that alternates between two
places; the compiler would not know that they are two if their index were computed.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int, Num

from kernels_pallas.scores import MASKED
from kernels_pallas.tpu.blocks import PrefillBlocks
from kernels_pallas.tpu.numerics import LANES, LOWEST, Numerics, across, dot, lane_sums, normalized
from kernels_pallas.tpu.stream import CURSOR_SIZE, BlockStream, start, wait
from kernels_pallas.tpu.tiles import ALIGNMENT_ROWS, Tiles

type Scalar = Any  # an int32 in a kernel
type Ref = Any
type Stage = Callable[[Scalar, int], None]

_SOFTMAX_ROWS = 32  # of one expression; the compiler orders them as it likes


def prefill(
    q: Float[Array, "units packed_rows unit_lanes"],
    kv_pages: Num[Array, "pages kv_heads page_size kv_dim"],
    tables: Int[Array, "seqs blocks"],
    tiles: Tiles,
    numerics: Numerics,
    blocks: PrefillBlocks,
) -> Float[Array, "units packed_rows unit_lanes"]:
    """Attends for all tiles; rows of no tile come back as whatever was in memory.

    Args:
      q: scaled queries, packed as `prefill_tiles` says; the query heads of a unit lie side by side, whole registers.
      kv_pages: as in `paged_attention`.
      tables: likewise.
      tiles: of `prefill_tiles`.
      numerics: of the scores.
      blocks: sizes.
    """
    units, packed_rows, unit_lanes = q.shape
    _, kv_heads, page_size, kv_dim = kv_pages.shape
    unit_heads = unit_lanes // numerics.stride
    rows = unit_heads * blocks.tile_tokens
    grid_spec = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=6,
        grid=(1,),
        in_specs=[pl.BlockSpec(memory_space=pltpu.HBM)] * 2,
        out_specs=pl.BlockSpec(memory_space=pltpu.HBM),
        scratch_shapes=[
            pltpu.VMEM((blocks.slots, blocks.tokens // page_size, kv_heads, page_size, kv_dim), kv_pages.dtype),
            pltpu.SemaphoreType.DMA((blocks.slots,)),
            pltpu.SMEM((CURSOR_SIZE,), jnp.int32),
            pltpu.VMEM((units, blocks.tile_tokens, unit_lanes), q.dtype),
            pltpu.VMEM((units, blocks.tile_tokens, unit_lanes), q.dtype),
            pltpu.SemaphoreType.DMA((2,)),
            pltpu.VMEM((rows, blocks.tokens), jnp.float32),
            pltpu.VMEM((units, rows, LANES), jnp.float32),
            pltpu.VMEM((units, rows, LANES), jnp.float32),
            pltpu.VMEM((units, rows, numerics.lanes), jnp.float32),
            *[pltpu.VMEM((rows, blocks.tokens), jnp.float32)] * 2,
            *[pltpu.VMEM((rows, blocks.tokens), q.dtype)] * 2,
            *[pltpu.VMEM((rows, LANES), jnp.float32)] * 2,
        ],
    )
    return pl.pallas_call(
        functools.partial(_kernel, table_pages=tables.shape[1], numerics=numerics),
        out_shape=jax.ShapeDtypeStruct((units, packed_rows, unit_lanes), q.dtype),
        grid_spec=grid_spec,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",), vmem_limit_bytes=blocks.vmem_limit_bytes, disable_bounds_checks=True
        ),
        name="paged_prefill",
    )(tables.reshape(-1), *tiles, q, kv_pages)


@dataclass(frozen=True)
class _Units:
    """All units of a tile, and what is kept of them from block to block.

    Attributes:
      q: `[units, tile_tokens, unit_lanes]`.
      buffer: of `BlockStream`.
      bias: `[tile_tokens, block_tokens]`: what is added to the scores of a block that not all queries see.
      largest: `[units, rows, LANES]`: each row's largest score so far.
      total: likewise: sums of weights, as `lane_sums` gives them.
      acc: `[units, rows, lanes]`: sums of weighted values.
      scores: two places for what `score` hands to `soften`, `[rows, block_tokens]`.
      weights: two places for what `soften` hands to `output`, likewise.
      shrink: two places for factors of `acc` that `soften` hands to `output`, `[rows, LANES]`.
      numerics: of the scores.
    """

    q: Ref
    buffer: Ref
    bias: Ref
    largest: Ref
    total: Ref
    acc: Ref
    scores: tuple[Ref, Ref]
    weights: tuple[Ref, Ref]
    shrink: tuple[Ref, Ref]
    numerics: Numerics

    @property
    def heads(self) -> int:
        """Query heads of a unit."""
        return self.q.shape[2] // self.numerics.stride

    def begin(self) -> None:
        """A new tile."""
        self.largest[...] = jnp.full(self.largest.shape, LOWEST, jnp.float32)
        self.total[...] = jnp.zeros(self.total.shape, jnp.float32)
        self.acc[...] = jnp.zeros(self.acc.shape, jnp.float32)

    def set_bias(self, position: Scalar, first_token: Scalar) -> None:
        """Of the block at `first_token`, for queries from `position` on.

        A number to add is cheaper than a choice for each unit, which would keep masks in registers.
        """
        tile_tokens = self.q.shape[1]
        positions = position + lax.broadcasted_iota(jnp.int32, (tile_tokens, 1), 0)
        columns = first_token + lax.broadcasted_iota(jnp.int32, (1, self.bias.shape[1]), 1)
        bias = jnp.where(self.numerics.sees(positions, columns), 0.0, MASKED)
        for head in range(self.heads):
            self.bias[pl.ds(head * tile_tokens, tile_tokens)] = bias

    def score(self, slot: Scalar, unit: Scalar, place: int) -> None:
        """Products of queries and keys."""
        stride, lanes = self.numerics.stride, self.numerics.lanes
        queries = [self.q[unit, :, head * stride : head * stride + lanes] for head in range(self.heads)]
        keys = self.numerics.keys(self._kv(slot, unit), self.q.dtype)
        products = dot(jnp.concatenate(queries, axis=0), keys, transposed=True)
        self.scores[place][...] = self.numerics.exponents(products)

    def soften(self, unit: Scalar, place: int, masked: bool) -> None:
        """Weights, from scores."""
        tile_tokens = self.q.shape[1]
        for first in range(0, self.heads * tile_tokens, _SOFTMAX_ROWS):
            rows = pl.ds(first, _SOFTMAX_ROWS)
            scores = self.scores[place][rows]
            bias = self.bias[rows] if masked else 0.0
            before = self.largest[unit, rows]
            now = jnp.maximum(before, jnp.max(scores + bias, axis=1, keepdims=True))
            # Not `scores + bias` again: it would have to stay in registers until the maximum is known.
            weights = jnp.exp2(scores + (bias - across(now, scores.shape[1])))
            shrink = jnp.exp2(before - now)
            self.largest[unit, rows] = now
            self.total[unit, rows] = self.total[unit, rows] * shrink + lane_sums(weights)
            self.shrink[place][rows] = shrink
            self.weights[place][rows] = weights.astype(self.q.dtype)

    def output(self, slot: Scalar, unit: Scalar, place: int) -> None:
        """Sums of values."""
        values = self.numerics.values(self._kv(slot, unit), self.q.dtype)
        shrunk = self.acc[unit] * across(self.shrink[place][...], self.acc.shape[2])
        self.acc[unit] = shrunk + dot(self.weights[place][...], values)

    def finish(self, unit: Scalar, out: Ref) -> None:
        """Puts the result where `q` has the queries."""
        tile_tokens = self.q.shape[1]
        for head in range(self.heads):
            rows = pl.ds(head * tile_tokens, tile_tokens)
            lanes = pl.ds(head * self.numerics.stride, self.numerics.lanes)
            out[unit, :, lanes] = normalized(self.acc[unit, rows], self.total[unit, rows]).astype(out.dtype)

    def _kv(self, slot: Scalar, unit: Scalar) -> Ref:
        return self.buffer.at[slot, :, lax.div(unit, self.q.shape[0] // self.buffer.shape[2])]


def _kernel(
    tables: Ref,
    num_tiles: Ref,
    seqs: Ref,
    positions: Ref,
    ends: Ref,
    tile_rows: Ref,
    q_hbm: Ref,
    kv_pages: Ref,
    out_hbm: Ref,
    buffer: Ref,
    semaphores: Ref,
    cursor: Ref,
    q: Ref,
    out: Ref,
    tile_semaphores: Ref,
    bias: Ref,
    largest: Ref,
    total: Ref,
    acc: Ref,
    *places: Ref,
    table_pages: int,
    numerics: Numerics,
) -> None:
    pages = BlockStream(
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
    units = _Units(q, buffer, bias, largest, total, acc, places[:2], places[2:4], places[4:], numerics)

    def rows_of(hbm: Ref, tile: Scalar) -> Ref:
        return hbm.at[:, pl.ds(pl.multiple_of(tile_rows[tile], ALIGNMENT_ROWS), q.shape[1])]

    def q_copy(tile: Scalar) -> Any:
        return pltpu.make_async_copy(rows_of(q_hbm, tile), q, tile_semaphores.at[0])

    def out_copy(tile: Scalar) -> Any:
        return pltpu.make_async_copy(out, rows_of(out_hbm, tile), tile_semaphores.at[1])

    def attend(tile: Scalar, slot: Scalar, first_token: Scalar, masked: bool) -> None:
        if masked:
            units.set_bias(positions[tile], first_token)
        _pipeline(
            q.shape[0],
            functools.partial(units.score, slot),
            functools.partial(units.soften, masked=masked),
            functools.partial(units.output, slot),
        )

    def compute(tile: Scalar, _: None) -> None:
        units.begin()
        wait(q_copy(tile))
        pages.for_each_block(tile, functools.partial(attend, tile))
        pl.when(tile + 1 < num_tiles[0])(lambda: start(q_copy(tile + 1)))
        # Rows behind the end of a sequence are the next one's: its tile writes them later, so one at a time.
        pl.when(tile > 0)(lambda: wait(out_copy(tile - 1)))
        lax.fori_loop(0, q.shape[0], lambda unit, _: units.finish(unit, out), None)
        start(out_copy(tile))

    @pl.when(num_tiles[0] > 0)
    def _() -> None:
        pages.begin()
        start(q_copy(0))
        lax.fori_loop(0, num_tiles[0], compute, None)
        wait(out_copy(num_tiles[0] - 1))


def _pipeline(units: int, score: Stage, soften: Stage, output: Stage) -> None:
    """Takes all units through three stages.

    Each stage is called with a unit and with the place, 0 or 1, of what it hands on. All that is handed on goes from
    one iteration of a loop to another: within one, the compiler would keep it in registers, of which there are too few.
    """
    last = units - 1

    def begin() -> None:
        score(0, 0)

    def second() -> None:
        soften(0, 0)
        if units > 1:
            score(1, 1)

    def middle(step: Scalar, place: int) -> None:
        output(step - 2, place)  # first: in other orders the compiler keeps sums in registers for longer
        soften(step - 1, 1 - place)
        score(step, place)

    def before_last() -> None:
        soften(last, last % 2)

    def end() -> None:
        if units > 1:
            output(last - 1, (last - 1) % 2)
        output(last, last % 2)

    def steps(first: int, end: int, even: Callable[[Scalar], None], odd: Callable[[Scalar], None]) -> None:
        lax.fori_loop(first, end, lambda step, _: lax.cond(lax.rem(step, 2) == 0, even, odd, step), None)

    steps(0, 2, lambda _: begin(), lambda _: second())
    if units > 2:
        steps(2, units, lambda step: middle(step, 0), lambda step: middle(step, 1))
    if units > 1:
        steps(0, 2, lambda _: before_last(), lambda _: end())
    else:
        end()
