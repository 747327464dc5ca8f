"""Writes new keys and values into their pages, in place.

XLA scatters a few rows in place, but for hundreds it rearranges the whole pool and back. Here the rows of a step are
packed by the registers' tiles of the pages that they go to, and a kernel reads, merges and writes these tiles only.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Int, Num

TILE_ROWS = {"float32": 8, "bfloat16": 16, "int8": 32, "float8_e4m3fn": 32}
"""Rows that a copy may begin at a multiple of, by type."""

_SLOTS = 3  # tiles in VMEM: one is read, one merged, one written

type Ref = Any
type Scalar = Any


class _Runs(NamedTuple):
    """Tokens behind each other that go to one tile; entries from `total` on are padding.

    Attributes:
      total: runs, one number.
      pages: page of each.
      rows: first row of its tile in the page.
      first: first row in the tile that is written.
      end: row behind the last one.
      tokens: the token of each row of the tile; some token for rows that are not written.
    """

    total: Int[Array, "1"]
    pages: Int[Array, "runs"]
    rows: Int[Array, "runs"]
    first: Int[Array, "runs"]
    end: Int[Array, "runs"]
    tokens: Int[Array, "runs tile_rows"]


def can_write(kv_pages: Num[Array, "pages kv_heads page_size kv_dim"]) -> bool:
    """Whether pages are made of whole tiles."""
    rows = TILE_ROWS.get(str(kv_pages.dtype))
    return rows is not None and kv_pages.shape[2] % rows == 0 and kv_pages.shape[3] % 128 == 0


def write_rows(
    kv_pages: Num[Array, "pages kv_heads page_size kv_dim"],
    rows: Num[Array, "tokens kv_heads kv_dim"],
    slots: Int[Array, "tokens"],
    max_seqs: int,
) -> Num[Array, "pages kv_heads page_size kv_dim"]:
    """Writes rows into their slots; see `kernels_pallas.pages.write_kv`.

    Args:
      kv_pages: pages of whole tiles.
      rows: of their type.
      slots: of each row. Rows of one sequence have slots that follow each other, apart from ends of pages, and no two
        sequences write to one page.
      max_seqs: sequences at most.
    """
    num_pages, kv_heads, page_size, kv_dim = kv_pages.shape
    tile_rows = TILE_ROWS[str(kv_pages.dtype)]
    runs = _runs(slots.astype(jnp.int32), num_pages, page_size, tile_rows, max_seqs)
    packed = rows[runs.tokens].swapaxes(1, 2)  # [runs, kv_heads, tile_rows, kv_dim]
    tile = pltpu.VMEM((_SLOTS, kv_heads, tile_rows, kv_dim), kv_pages.dtype)
    grid_spec = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=5,
        grid=(1,),
        in_specs=[pl.BlockSpec(memory_space=pltpu.HBM)] * 2,
        out_specs=pl.BlockSpec(memory_space=pltpu.HBM),
        scratch_shapes=[tile, tile, *[pltpu.SemaphoreType.DMA((_SLOTS,))] * 3],
    )
    return pl.pallas_call(
        _kernel,
        out_shape=jax.ShapeDtypeStruct(kv_pages.shape, kv_pages.dtype),
        grid_spec=grid_spec,
        input_output_aliases={6: 0},
        name="paged_write",
    )(runs.total, runs.pages, runs.rows, runs.first, runs.end, packed, kv_pages)


def _runs(slots: Int[Array, "tokens"], num_pages: int, page_size: int, tile_rows: int, max_seqs: int) -> _Runs:
    """Cuts a step's tokens into runs."""
    tokens = slots.shape[0]
    # A sequence of n tokens touches two tiles more than it fills, and each run has a token.
    most = min(tokens, tokens // tile_rows + 2 * max_seqs)
    inside = (slots >= 0) & (slots < num_pages * page_size)
    before = jnp.concatenate([jnp.array([-2], jnp.int32), slots[:-1]])
    is_first = inside & ((slots % tile_rows == 0) | (slots != before + 1))
    starts = jnp.nonzero(is_first, size=most, fill_value=tokens - 1)[0].astype(jnp.int32)
    lengths = _run_lengths(is_first | ~inside)[starts]
    first = slots[starts] % tile_rows
    source = starts[:, None] + jnp.arange(tile_rows) - first[:, None]
    page_rows = slots[starts] % page_size
    return _Runs(
        total=is_first.sum(dtype=jnp.int32)[None],
        pages=slots[starts] // page_size,
        rows=page_rows - first,
        first=first,
        end=first + lengths,
        tokens=jnp.clip(source, 0, tokens - 1),
    )


def _run_lengths(is_break: Bool[Array, "tokens"]) -> Int[Array, "tokens"]:
    """How far each token is from the next break, or from the end."""
    tokens = is_break.shape[0]
    index = jnp.arange(tokens, dtype=jnp.int32)
    breaks = jnp.where(is_break, index, tokens)
    return lax.cummin(jnp.append(breaks[1:], tokens), reverse=True) - index


def _kernel(
    count: Ref,
    pages: Ref,
    rows: Ref,
    first: Ref,
    end: Ref,
    packed: Ref,
    _: Ref,
    kv_pages: Ref,
    old: Ref,
    new: Ref,
    old_arrived: Ref,
    new_arrived: Ref,
    written: Ref,
) -> None:
    """Merges run by run; the next one's tiles arrive meanwhile."""
    runs = count[0]
    tile_rows = old.shape[2]

    def tile_of(run: Scalar) -> Ref:
        return kv_pages.at[pages[run], :, pl.ds(pl.multiple_of(rows[run], tile_rows), tile_rows)]

    def arriving(run: Scalar) -> tuple[Any, Any]:
        slot = lax.rem(run, _SLOTS)
        return (
            pltpu.make_async_copy(tile_of(run), old.at[slot], old_arrived.at[slot]),
            pltpu.make_async_copy(packed.at[run], new.at[slot], new_arrived.at[slot]),
        )

    def leaving(run: Scalar) -> Any:
        slot = lax.rem(run, _SLOTS)
        return pltpu.make_async_copy(old.at[slot], tile_of(run), written.at[slot])

    def fetch(run: Scalar) -> None:
        @pl.when(run < runs)
        def _() -> None:
            pl.when(run >= _SLOTS)(lambda: leaving(run - _SLOTS).wait())  # who had the slot before
            for copy in arriving(run):
                copy.start()

    def merge(run: Scalar, _: None) -> None:
        fetch(run + 1)
        for copy in arriving(run):
            copy.wait()
        slot = lax.rem(run, _SLOTS)
        row = lax.broadcasted_iota(jnp.int32, old.shape[1:], 1)
        is_new = (row >= first[run]) & (row < end[run])
        old[slot] = jnp.where(is_new, new[slot], old[slot])
        leaving(run).start()

    fetch(jnp.int32(0))
    lax.fori_loop(0, runs, merge, None)
    lax.fori_loop(jnp.maximum(runs - _SLOTS, 0), runs, lambda run, _: leaving(run).wait(), None)
