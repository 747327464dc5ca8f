"""Which pieces of work a batch has: units of decoding (a stretch of one sequence's KV), tiles of prefill queries.

All of it is computed on the device from the batch's numbers; only the bounds of the lists are static.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int


class Units(NamedTuple):
    """Stretches of KV for decoding, those of a sequence behind each other.

    Attributes:
      seqs: of each unit; behind the last unit, the number of sequences.
      first_blocks: first block of KV of each unit.
      end_blocks: block behind its last one; equal to the first one for units that do not exist.
    """

    seqs: Int[Array, "units"]
    first_blocks: Int[Array, "units"]
    end_blocks: Int[Array, "units"]


class Tiles(NamedTuple):
    """Tiles of query tokens for prefill.

    Attributes:
      seqs: sequence of each tile.
      first_rows: row of its first token in the flat batch.
      positions: position of its first token in the sequence.
      end_tokens: tokens of its sequence that it may look at; zero for tiles that do not exist.
      of_seqs: first tile of each sequence.
    """

    seqs: Int[Array, "tiles"]
    first_rows: Int[Array, "tiles"]
    positions: Int[Array, "tiles"]
    end_tokens: Int[Array, "tiles"]
    of_seqs: Int[Array, "seqs"]


def decode_units(
    kv_lens: Int[Array, "seqs"],
    num_decodes: Int[Array, ""] | int,
    *,
    block_tokens: int,
    sliding_window: int | None,
    wanted: int,
) -> Units:
    """Splits the sequences into about `wanted` equally long stretches, at least one for each sequence.

    Long sequences get many and short ones few, so that all multiprocessors have the same to do.

    Args:
      kv_lens: tokens of each sequence.
      num_decodes: sequences that decode.
      block_tokens: tokens of a block.
      sliding_window: as in `paged_attention`.
      wanted: units that fill the device; the list has room for these and one more for each sequence.
    """
    seqs = kv_lens.shape[0]
    lens = jnp.where(jnp.arange(seqs) < num_decodes, kv_lens, 0)
    ends = (lens + block_tokens - 1) // block_tokens
    firsts = jnp.zeros_like(ends)
    if sliding_window is not None:
        firsts = jnp.maximum(lens - sliding_window, 0) // block_tokens
    blocks = ends - firsts
    unit_blocks = jnp.maximum((blocks.sum() + wanted - 1) // wanted, 1)
    counts = (blocks + unit_blocks - 1) // unit_blocks
    behind = jnp.cumsum(counts)
    unit = jnp.arange(wanted + seqs)
    seq = jnp.searchsorted(behind, unit, side="right").astype(jnp.int32)
    safe = jnp.minimum(seq, seqs - 1)
    number = unit - (behind - counts)[safe]
    first = firsts[safe] + number * unit_blocks
    end = jnp.where(seq < seqs, jnp.minimum(first + unit_blocks, ends[safe]), first)
    return Units(seq, first.astype(jnp.int32), end.astype(jnp.int32))


def prefill_tiles(
    cu_q_lens: Int[Array, "seqs_plus_1"],
    kv_lens: Int[Array, "seqs"],
    num_decodes: Int[Array, ""] | int,
    num_seqs: Int[Array, ""] | int,
    *,
    tokens: int,
    tile_tokens: int,
) -> Tiles:
    """Cuts each chunk into tiles of `tile_tokens`; the last one of a chunk may be shorter.

    Args:
      cu_q_lens: as in `paged_attention`.
      kv_lens: likewise.
      num_decodes: likewise; these sequences have no tiles.
      num_seqs: likewise.
      tokens: rows of the flat batch; the list has room for what they can be cut into.
      tile_tokens: query tokens of a tile.
    """
    seqs = kv_lens.shape[0]
    index = jnp.arange(seqs)
    q_lens = jnp.where((index >= num_decodes) & (index < num_seqs), cu_q_lens[1:] - cu_q_lens[:-1], 0)
    counts = (q_lens + tile_tokens - 1) // tile_tokens
    behind = jnp.cumsum(counts)
    tile = jnp.arange(tokens // tile_tokens + min(seqs, tokens))
    seq = jnp.searchsorted(behind, tile, side="right").astype(jnp.int32)
    safe = jnp.minimum(seq, seqs - 1)
    offset = (tile - (behind - counts)[safe]) * tile_tokens
    position = kv_lens[safe] - q_lens[safe] + offset
    end = jnp.where(seq < seqs, jnp.minimum(position + tile_tokens, kv_lens[safe]), 0)
    first_row = jnp.where(seq < seqs, cu_q_lens[safe] + offset, 0)
    numbers = (safe, first_row, position, end, behind - counts)
    return Tiles(*(each.astype(jnp.int32) for each in numbers))
