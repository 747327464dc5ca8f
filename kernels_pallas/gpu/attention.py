"""Paged attention on Hopper and Blackwell: which kernel takes what of a ragged batch.

Decode rows go one by one, chunks in tiles of query tokens, and the results are put back into the flat batch.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from kernels_pallas.gpu import devices
from kernels_pallas.gpu.blocks import Blocks, decode_blocks, prefill_blocks
from kernels_pallas.gpu.decode import decode
from kernels_pallas.gpu.prefill import prefill
from kernels_pallas.gpu.units import Tiles, decode_units, prefill_tiles
from kernels_pallas.scores import Scores

_ROW_TILE = 8  # rows of a tile of shared memory: a copy moves whole ones


def paged_attention(
    q: Float[Array, "tokens q_heads head_dim"],
    kv_pages: Num[Array, "pages kv_heads page_size kv_dim"],
    block_tables: Int[Array, "seqs blocks"],
    cu_q_lens: Int[Array, "seqs_plus_1"],
    kv_lens: Int[Array, "seqs"],
    *,
    num_decodes: Int[Array, ""] | int,
    num_seqs: Int[Array, ""] | int,
    scale: float,
    sliding_window: int | None = None,
    soft_cap: float | None = None,
) -> Float[Array, "tokens q_heads head_dim"]:
    """See `kernels_pallas.attention.paged_attention`; scales of KV are not for here."""
    scores = Scores(scale, sliding_window, soft_cap)
    batch = (kv_pages, block_tables, cu_q_lens, kv_lens)
    blocks = decode_blocks(q.shape[-1], blackwell=devices.is_blackwell())
    if blocks is None:  # a decode is a chunk of one token
        return _prefill(q, *batch, 0, num_seqs, scores)
    if q.shape[0] == 1:  # and the other way round
        return _decode(q, *batch, num_seqs, scores, blocks)
    chunks = _prefill(q, *batch, num_decodes, num_seqs, scores)
    decoded = _decode(q, *batch, num_decodes, scores, blocks)
    rows = jnp.arange(q.shape[0])[:, None, None]
    padded = jnp.pad(decoded, ((0, q.shape[0] - decoded.shape[0]), (0, 0), (0, 0)))
    return jnp.where(rows < num_decodes, padded, chunks)


def unsupported(
    q: Array, kv_pages: Array, block_tables: Array, *, sliding_window: int | None, soft_cap: float | None
) -> str | None:
    """Why this cannot be done, or None."""
    del block_tables, sliding_window, soft_cap
    head_dim, page_size = q.shape[-1], kv_pages.shape[2]
    if q.dtype != jnp.bfloat16 or kv_pages.dtype != jnp.bfloat16:
        return f"queries are {q.dtype} and KV is {kv_pages.dtype}, but must be bfloat16"
    if head_dim not in (64, 96, 128, 256):
        return f"head_dim is {head_dim}, but must be 64, 96, 128 or 256"
    if page_size not in (16, 32, 64, 128, 256):
        return f"page_size is {page_size}, but must be 16, 32, 64, 128 or 256"
    group = q.shape[1] // kv_pages.shape[1]
    if group > 64:
        return f"{group} query heads share a KV head, but at most 64 may"
    if devices.is_blackwell() and head_dim > 128:
        return f"head_dim {head_dim} spills registers on Blackwell"
    return None


def _decode(
    q: Float[Array, "tokens q_heads head_dim"],
    kv_pages: Num[Array, "pages kv_heads page_size kv_dim"],
    tables: Int[Array, "seqs blocks"],
    cu_q_lens: Int[Array, "seqs_plus_1"],
    kv_lens: Int[Array, "seqs"],
    num_decodes: Int[Array, ""] | int,
    scores: Scores,
    blocks: Blocks,
) -> Float[Array, "decodes q_heads head_dim"]:
    """Attention of the first rows, one for each sequence."""
    del cu_q_lens  # a sequence that decodes has the row of its own number
    _, q_heads, head_dim = q.shape
    kv_heads = kv_pages.shape[1]
    seqs, group = min(q.shape[0], kv_lens.shape[0]), q_heads // kv_heads
    units = decode_units(
        kv_lens[:seqs],
        num_decodes,
        block_tokens=blocks.tokens,
        sliding_window=scores.sliding_window,
        wanted=max(1, devices.units_wanted() // kv_heads),
    )
    heads = jnp.pad(
        q[:seqs].reshape(seqs, kv_heads, group, head_dim), ((0, 0), (0, 0), (0, -group % _ROW_TILE), (0, 0))
    )
    out = decode(heads, kv_pages, tables, kv_lens, units, scores, blocks, blackwell=devices.is_blackwell())
    return out[:, :, :group].reshape(seqs, q_heads, head_dim)


def _prefill(
    q: Float[Array, "tokens q_heads head_dim"],
    kv_pages: Num[Array, "pages kv_heads page_size kv_dim"],
    tables: Int[Array, "seqs blocks"],
    cu_q_lens: Int[Array, "seqs_plus_1"],
    kv_lens: Int[Array, "seqs"],
    num_decodes: Int[Array, ""] | int,
    num_seqs: Int[Array, ""] | int,
    scores: Scores,
) -> Float[Array, "tokens q_heads head_dim"]:
    """Attention of the chunks behind the decode rows; other rows are finite."""
    tokens, q_heads, head_dim = q.shape
    kv_heads = kv_pages.shape[1]
    group = q_heads // kv_heads
    blocks = prefill_blocks(head_dim, blackwell=devices.is_blackwell())
    tile_rows = blocks.tile_rows
    tile_tokens = tile_rows // group
    tiles = prefill_tiles(cu_q_lens, kv_lens, num_decodes, num_seqs, tokens=tokens, tile_tokens=tile_tokens)
    count = tiles.seqs.shape[0]
    sources = jnp.minimum(tiles.first_rows[:, None] + jnp.arange(tile_tokens), tokens - 1)
    packed = q[sources].reshape(count, tile_tokens, kv_heads, group, head_dim).swapaxes(1, 2)
    packed = packed.reshape(count, kv_heads, tile_tokens * group, head_dim)
    packed = jnp.pad(packed, ((0, 0), (0, 0), (0, tile_rows - tile_tokens * group), (0, 0)))
    out = prefill(packed, kv_pages, tables, tiles, group, scores, blocks, blackwell=devices.is_blackwell())
    out = out[:, :, : tile_tokens * group].reshape(count, kv_heads, tile_tokens, group, head_dim)
    return _unpacked(out, tiles, cu_q_lens, num_decodes, num_seqs, tokens)


def _unpacked(
    out: Float[Array, "tiles kv_heads tile_tokens group head_dim"],
    tiles: Tiles,
    cu_q_lens: Int[Array, "seqs_plus_1"],
    num_decodes: Int[Array, ""] | int,
    num_seqs: Int[Array, ""] | int,
    tokens: int,
) -> Float[Array, "tokens q_heads head_dim"]:
    """Each token's heads out of its tile; zero for tokens that are in none."""
    count, kv_heads, tile_tokens, group, head_dim = out.shape
    token = jnp.arange(tokens)
    seqs = cu_q_lens.shape[0] - 1
    seq = jnp.clip(jnp.searchsorted(cu_q_lens[1:], token, side="right"), 0, seqs - 1)
    offset = token - cu_q_lens[seq]
    tile = jnp.clip(tiles.of_seqs[seq] + offset // tile_tokens, 0, count - 1)
    heads = out[tile, :, offset % tile_tokens].reshape(tokens, kv_heads * group, head_dim)
    live = (seq >= num_decodes) & (seq < num_seqs) & (token < cu_q_lens[num_seqs])
    return jnp.where(live[:, None, None], heads, 0)
