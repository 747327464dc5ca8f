"""Tiles of queries: what one pass of a kernel over the KV of a sequence serves.

A chunk's queries are packed so that each sequence begins at a whole register: a kernel copies a tile at an aligned row,
and what it writes past the end of its sequence is written over by the next tile, or is padding.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Int

ALIGNMENT_ROWS = 16  # rows of a register of bfloat16


class Tiles(NamedTuple):
    """Tiles in the order in which they are computed; entries from `number` on are padding.

    Attributes:
      number: of tiles that are not padding.
      seqs: sequence of each tile.
      positions: of a tile's first query in its sequence.
      ends: tokens of its sequence that its last query sees.
      rows: packed row of its first query.
    """

    number: Int[Array, "1"]
    seqs: Int[Array, "tiles"]
    positions: Int[Array, "tiles"]
    ends: Int[Array, "tiles"]
    rows: Int[Array, "tiles"]


class Packing(NamedTuple):
    """Where the queries of chunks lie among the packed rows.

    Attributes:
      tokens: the query of each packed row; some query for rows between sequences.
      rows: the packed row of each query; some row for queries that are in no chunk.
      in_chunk: whether a query is in a chunk.
    """

    tokens: Int[Array, "packed_rows"]
    rows: Int[Array, "tokens"]
    in_chunk: Bool[Array, "tokens"]


def decode_tiles(kv_lens: Int[Array, "seqs"], num_decodes: Int[Array, ""] | int) -> Tiles:
    """A tile for each decoding sequence, of its one query."""
    seqs = jnp.arange(kv_lens.shape[0], dtype=jnp.int32)
    lens = kv_lens.astype(jnp.int32)
    return Tiles(jnp.asarray(num_decodes, jnp.int32)[None], seqs, lens - 1, lens, seqs)


def prefill_tiles(
    cu_q_lens: Int[Array, "seqs_plus_1"],
    kv_lens: Int[Array, "seqs"],
    num_decodes: Int[Array, ""] | int,
    num_seqs: Int[Array, ""] | int,
    *,
    tokens: int,
    tile_tokens: int,
) -> tuple[Tiles, Packing]:
    """Cuts the chunks behind the decodes into tiles of at most `tile_tokens` queries.

    Args:
      cu_q_lens: as in `paged_attention`.
      kv_lens: likewise.
      num_decodes: likewise.
      num_seqs: likewise.
      tokens: queries in the batch, padding included.
      tile_tokens: a multiple of `ALIGNMENT_ROWS`.
    """
    seqs = kv_lens.shape[0]
    chunks = min(seqs, tokens)  # that have queries
    index = jnp.arange(seqs)
    starts = cu_q_lens[:-1].astype(jnp.int32)
    lens = jnp.where((index >= num_decodes) & (index < num_seqs), cu_q_lens[1:] - starts, 0).astype(jnp.int32)

    rows = pl.cdiv(lens, ALIGNMENT_ROWS) * ALIGNMENT_ROWS
    row_ends = jnp.cumsum(rows)
    row_starts = row_ends - rows
    tile_counts = pl.cdiv(lens, tile_tokens)
    tile_ends = jnp.cumsum(tile_counts)

    tile = jnp.arange(tokens // tile_tokens + chunks, dtype=jnp.int32)
    seq = _owner(tile_ends, tile)
    first = (tile - (tile_ends - tile_counts)[seq]) * tile_tokens  # query of the chunk
    position = kv_lens[seq].astype(jnp.int32) - lens[seq] + first
    end = position + jnp.minimum(lens[seq] - first, tile_tokens)
    tiles = Tiles(tile_ends[-1:].astype(jnp.int32), seq, position, end, row_starts[seq] + first)

    # A tile reads and writes whole, so the last one needs as many rows behind its first.
    packed_row = jnp.arange(pl.cdiv(tokens, ALIGNMENT_ROWS) * ALIGNMENT_ROWS + chunks * ALIGNMENT_ROWS + tile_tokens)
    seq = _owner(row_ends, packed_row)
    source = jnp.clip(starts[seq] + packed_row - row_starts[seq], 0, tokens - 1)
    token = jnp.arange(tokens)
    seq = _owner(cu_q_lens[1:], token)
    in_chunk = (token >= starts[seq]) & (token < starts[seq] + lens[seq])
    rows = jnp.where(in_chunk, row_starts[seq] + token - starts[seq], 0)
    return tiles, Packing(source, rows, in_chunk)


def _owner(ends: Int[Array, "seqs"], index: Int[Array, "n"]) -> Int[Array, "n"]:
    """The first sequence that ends behind each index; the last one where there is none."""
    owner = jnp.searchsorted(ends, index, side="right", method="compare_all")
    return jnp.minimum(owner, ends.shape[0] - 1).astype(jnp.int32)
