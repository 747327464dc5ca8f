"""Paged attention in plain XLA: runs on every platform, and every kernel is tested against it.

Nothing depends on the allocated length: all loops have dynamic trip counts. Prefill chunks go tile of queries by tile,
decode tokens group by group, and both walk over the blocks of KV that they may see with an online softmax, so the work
is the causal work (rounded up to a tile) and memory is one tile times one block.
"""

import functools
from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

QUERY_TILE_TOKENS = 128
PREFILL_BLOCK_TOKENS = 512
DECODE_BLOCK_TOKENS = 256
DECODE_GROUP_ROWS = 8
_MASKED = -1e30  # finite, so that a fully masked row stays free of NaN


@dataclass(frozen=True)
class _Attention:
    """The arguments of one call, except for the queries."""

    kv_pages: Float[Array, "pages kv_heads page_size kv_dim"]
    block_tables: Int[Array, "seqs blocks"]
    cu_q_lens: Int[Array, "seqs_plus_1"]
    kv_lens: Int[Array, "seqs"]
    num_decodes: Int[Array, ""] | int
    num_seqs: Int[Array, ""] | int
    scale: float
    sliding_window: int | None
    soft_cap: float | None

    @property
    def page_size(self) -> int:
        return self.kv_pages.shape[2]

    def first_block(self, position: Int[Array, ""], block_tokens: int) -> Int[Array, ""]:
        """First block that a query at `position` may see any of."""
        if self.sliding_window is None:
            return jnp.int32(0)
        return jnp.maximum(position - self.sliding_window + 1, 0) // block_tokens


def paged_attention(
    q: Float[Array, "tokens q_heads head_dim"],
    kv_pages: Float[Array, "pages kv_heads page_size kv_dim"],
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
    """See `kernels_pallas.attention.paged_attention`."""
    attention = _Attention(
        kv_pages, block_tables, cu_q_lens, kv_lens, num_decodes, num_seqs, scale, sliding_window, soft_cap
    )
    return _prefill(attention, q, _decode(attention, q))


def _decode(
    attention: _Attention, q: Float[Array, "tokens q_heads head_dim"]
) -> Float[Array, "tokens q_heads head_dim"]:
    """Attends for the first `num_decodes` rows; zero elsewhere."""
    candidates = min(q.shape[0], attention.kv_lens.shape[0])
    rows = min(candidates, DECODE_GROUP_ROWS)
    pages = _pages_per_block(DECODE_BLOCK_TOKENS, attention)
    tables = _pad_to_multiple(attention.block_tables, pages, axis=1)

    def group(index: Int[Array, ""], out: Array) -> Array:
        # The last group is moved back to fit; rows it shares with the one before are computed twice, alike.
        start = jnp.minimum(index * rows, candidates - rows)
        live = start + jnp.arange(rows) < attention.num_decodes
        lens = jnp.where(live, lax.dynamic_slice_in_dim(attention.kv_lens, start, rows), 0)
        queries = lax.dynamic_slice_in_dim(q, start, rows)[:, None]
        result = _attend(attention, queries, lax.dynamic_slice_in_dim(tables, start, rows), lens[:, None] - 1, pages)
        return lax.dynamic_update_slice_in_dim(out, result[:, 0], start, axis=0)

    return lax.fori_loop(0, (attention.num_decodes + rows - 1) // rows, group, jnp.zeros_like(q))


def _prefill(
    attention: _Attention, q: Float[Array, "tokens q_heads head_dim"], out: Float[Array, "tokens q_heads head_dim"]
) -> Float[Array, "tokens q_heads head_dim"]:
    """Attends for the chunks behind the decode rows and writes them into `out`."""
    tokens = q.shape[0]
    tile = min(tokens, QUERY_TILE_TOKENS)
    pages = _pages_per_block(PREFILL_BLOCK_TOKENS, attention)
    tables = _pad_to_multiple(attention.block_tables, pages, axis=1)
    # Room behind the last row, so that a partial last tile is not clamped to an earlier start.
    q = jnp.pad(q, ((0, tile), (0, 0), (0, 0)))
    out = jnp.pad(out, ((0, tile), (0, 0), (0, 0)))

    def sequence(seq: Int[Array, ""], out: Array) -> Array:
        first, end = attention.cu_q_lens[seq], attention.cu_q_lens[seq + 1]
        table = lax.dynamic_slice_in_dim(tables, seq, 1)

        def query_tile(index: Int[Array, ""], out: Array) -> Array:
            row = first + index * tile
            rows = row + jnp.arange(tile)
            position = jnp.where(rows < end, attention.kv_lens[seq] - end + rows, -1)
            result = _attend(attention, lax.dynamic_slice_in_dim(q, row, tile)[None], table, position[None], pages)
            # A partial tile spills into rows of later sequences, which write theirs afterwards.
            return lax.dynamic_update_slice_in_dim(out, result[0], row, axis=0)

        return lax.fori_loop(0, (end - first + tile - 1) // tile, query_tile, out)

    return lax.fori_loop(attention.num_decodes, attention.num_seqs, sequence, out)[:tokens]


def _attend(
    attention: _Attention,
    q: Float[Array, "seqs queries q_heads head_dim"],
    tables: Int[Array, "seqs blocks"],
    positions: Int[Array, "seqs queries"],
    pages_per_block: int,
) -> Float[Array, "seqs queries q_heads head_dim"]:
    """Attends for a dense group of queries; those at position -1 are padding and give zero.

    Args:
      attention: pages and numerics.
      q: query heads.
      tables: pages of each sequence, a multiple of `pages_per_block` long.
      positions: position of each query, -1 for padding.
      pages_per_block: pages gathered at a time.
    """
    seqs, queries, num_q_heads, head_dim = q.shape
    num_kv_heads = attention.kv_pages.shape[1]
    group = num_q_heads // num_kv_heads
    block_tokens = pages_per_block * attention.page_size
    # One matrix per (sequence, KV head); its rows are (query head of the group, query).
    q = (q * attention.scale).astype(q.dtype).reshape(seqs, queries, num_kv_heads, group, head_dim)
    q = q.transpose(0, 2, 3, 1, 4).reshape(seqs, num_kv_heads, group * queries, head_dim)
    row_positions = jnp.broadcast_to(positions[:, None, :], (seqs, group, queries)).reshape(seqs, 1, -1, 1)
    dot = functools.partial(
        jnp.einsum,
        preferred_element_type=jnp.float32,
        precision=lax.Precision.HIGHEST if q.dtype == jnp.float32 else None,
    )

    def block(index: Int[Array, ""], carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        largest, total, acc = carry
        k, v = _gather_block(attention.kv_pages, tables, index, pages_per_block)
        scores = dot("shrd,shcd->shrc", q, k.astype(q.dtype))
        if attention.soft_cap is not None:
            scores = attention.soft_cap * jnp.tanh(scores / attention.soft_cap)
        columns = index * block_tokens + jnp.arange(block_tokens)
        seen = columns <= row_positions
        if attention.sliding_window is not None:
            seen &= columns > row_positions - attention.sliding_window
        scores = jnp.where(seen, scores, _MASKED)
        new_largest = jnp.maximum(largest, scores.max(axis=-1, keepdims=True))
        weights = jnp.where(seen, jnp.exp(scores - new_largest), 0.0)
        shrink = jnp.exp(largest - new_largest)
        total = total * shrink + weights.sum(axis=-1, keepdims=True)
        acc = acc * shrink + dot("shrc,shcd->shrd", weights.astype(q.dtype), v.astype(q.dtype))
        return new_largest, total, acc

    rows = (seqs, num_kv_heads, group * queries)
    start = jnp.full((*rows, 1), _MASKED), jnp.zeros((*rows, 1)), jnp.zeros((*rows, head_dim))
    last = positions.max()
    earliest = jnp.where(positions < 0, last, positions).min()
    first_block = attention.first_block(earliest, block_tokens)
    _, total, acc = lax.fori_loop(first_block, last // block_tokens + 1, block, start)
    result = (acc / jnp.where(total == 0.0, 1.0, total)).astype(q.dtype)
    result = result.reshape(seqs, num_kv_heads, group, queries, head_dim)
    return result.transpose(0, 3, 1, 2, 4).reshape(seqs, queries, num_q_heads, head_dim)


def _gather_block(
    kv_pages: Float[Array, "pages kv_heads page_size kv_dim"],
    tables: Int[Array, "seqs blocks"],
    index: Int[Array, ""],
    pages_per_block: int,
) -> tuple[Float[Array, "seqs kv_heads block_tokens head_dim"], Float[Array, "seqs kv_heads block_tokens head_dim"]]:
    """Keys and values of one block of each sequence."""
    _, num_kv_heads, page_size, kv_dim = kv_pages.shape
    seqs = tables.shape[0]
    wanted = lax.dynamic_slice_in_dim(tables, index * pages_per_block, pages_per_block, axis=1)
    kv = jnp.take(kv_pages, wanted, axis=0, mode="clip").swapaxes(1, 2)
    kv = kv.reshape(seqs, num_kv_heads, pages_per_block * page_size, kv_dim)
    return kv[..., : kv_dim // 2], kv[..., kv_dim // 2 :]


def _pages_per_block(block_tokens: int, attention: _Attention) -> int:
    return min(max(1, block_tokens // attention.page_size), attention.block_tables.shape[1])


def _pad_to_multiple(x: Array, multiple: int, axis: int) -> Array:
    """Pads with zeros behind, so that a slice of `multiple` entries is never clamped to an earlier start."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % multiple)
    return jnp.pad(x, widths)
