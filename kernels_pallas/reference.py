"""Paged attention in plain XLA: runs on every platform, and every kernel is tested against it.

Nothing depends on the allocated length: all loops have dynamic trip counts. Prefill chunks go tile of queries by tile,
decode tokens group by group, and both walk over the blocks of KV that they may see with an online softmax, so the work
is the causal work (rounded up to a tile) and memory is one tile times one block.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

QUERY_TILE_TOKENS = 256
PREFILL_BLOCK_TOKENS = 512
PREFILL_LAST_BLOCK_TOKENS = 256
DECODE_GROUP_ROWS = 16
DECODE_BLOCK_ROWS = 1024  # rows of KV, over the sequences of a group, gathered at a time: what a CPU's cache holds
DECODE_BLOCK_TOKENS_MIN, DECODE_BLOCK_TOKENS_MAX = 64, 256
_MASKED = -1e30  # finite, so that a fully masked row stays free of NaN


type _Softmax = tuple[Array, Array, Array]  # largest score so far, sum of weights, weighted sum of values


@dataclasses.dataclass(frozen=True)
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

    def pages_in(self, tokens: int) -> int:
        """Pages gathered at a time for a block of about `tokens`."""
        return min(max(1, tokens // self.page_size), self.block_tables.shape[1])


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
    """See `kernels_pallas.attention.paged_attention`; scales of KV are not for here."""
    attention = _Attention(
        kv_pages, block_tables, cu_q_lens, kv_lens, num_decodes, num_seqs, scale, sliding_window, soft_cap
    )
    if q.shape[0] == 1:  # a chunk of one token is a decode
        return _decode(dataclasses.replace(attention, num_decodes=num_seqs), q)
    return _prefill(attention, q, _decode(attention, q))


def _decode(
    attention: _Attention, q: Float[Array, "tokens q_heads head_dim"]
) -> Float[Array, "tokens q_heads head_dim"]:
    """Attends for the first `num_decodes` rows; the others come back as they are."""
    candidates = min(q.shape[0], attention.kv_lens.shape[0])
    rows = min(candidates, DECODE_GROUP_ROWS)
    block_tokens = min(max(DECODE_BLOCK_ROWS // rows, DECODE_BLOCK_TOKENS_MIN), DECODE_BLOCK_TOKENS_MAX)
    pages = attention.pages_in(block_tokens)
    tables = _pad_to_multiple(attention.block_tables, pages)

    def group(index: Int[Array, ""] | int, out: Array) -> Array:
        # The last group is moved back to fit; rows it shares with the one before are computed twice, alike.
        start = jnp.minimum(index * rows, candidates - rows)
        live = start + jnp.arange(rows) < attention.num_decodes
        lens = jnp.where(live, lax.dynamic_slice_in_dim(attention.kv_lens, start, rows), 0)
        queries = lax.dynamic_slice_in_dim(q, start, rows)[:, None]
        result = _attend(
            attention, queries, lax.dynamic_slice_in_dim(tables, start, rows), lens[:, None] - 1, last_block_pages=pages
        )
        return lax.dynamic_update_slice_in_dim(out, result[:, 0], start, axis=0)

    if rows == candidates:
        return group(0, q)
    return lax.fori_loop(0, (attention.num_decodes + rows - 1) // rows, group, q)


def _prefill(
    attention: _Attention, q: Float[Array, "tokens q_heads head_dim"], out: Float[Array, "tokens q_heads head_dim"]
) -> Float[Array, "tokens q_heads head_dim"]:
    """Attends for the chunks behind the decode rows and writes them into `out`."""
    tokens = q.shape[0]
    tile = min(tokens, QUERY_TILE_TOKENS)
    last_block_pages = attention.pages_in(PREFILL_LAST_BLOCK_TOKENS)
    block_pages = last_block_pages * (PREFILL_BLOCK_TOKENS // PREFILL_LAST_BLOCK_TOKENS)
    tables = _pad_to_multiple(attention.block_tables, block_pages)

    def sequence(seq: Int[Array, ""], out: Array) -> Array:
        first, end = attention.cu_q_lens[seq], attention.cu_q_lens[seq + 1]
        table = lax.dynamic_slice_in_dim(tables, seq, 1)

        def query_tile(index: Int[Array, ""], out: Array) -> Array:
            # The last tile is moved back to fit; a tile leaves rows that are not this sequence's as they are.
            row = jnp.minimum(first + index * tile, tokens - tile)
            rows = row + jnp.arange(tile)
            mine = (rows >= first) & (rows < end)
            position = jnp.where(mine, attention.kv_lens[seq] - end + rows, -1)
            queries = lax.dynamic_slice_in_dim(q, row, tile)[None]
            result = _attend(attention, queries, table, position[None], last_block_pages, block_pages)[0]
            before = lax.dynamic_slice_in_dim(out, row, tile)
            return lax.dynamic_update_slice_in_dim(out, jnp.where(mine[:, None, None], result, before), row, axis=0)

        return lax.fori_loop(0, (end - first + tile - 1) // tile, query_tile, out)

    return lax.fori_loop(attention.num_decodes, attention.num_seqs, sequence, out)


def _attend(
    attention: _Attention,
    q: Float[Array, "seqs queries q_heads head_dim"],
    tables: Int[Array, "seqs blocks"],
    positions: Int[Array, "seqs queries"],
    last_block_pages: int,
    block_pages: int | None = None,
) -> Float[Array, "seqs queries q_heads head_dim"]:
    """Attends for a dense group of queries; those at position -1 are padding and give finite numbers.

    Args:
      attention: pages and numerics.
      q: query heads.
      tables: pages of each sequence, a multiple of `last_block_pages` and `block_pages` long.
      positions: position of each query, -1 for padding.
      last_block_pages: pages gathered at a time where some query may not see all of them.
      block_pages: pages gathered at a time where all queries see all of them; None takes no such blocks.
    """
    seqs, queries, num_q_heads, head_dim = q.shape
    num_kv_heads = attention.kv_pages.shape[1]
    group = num_q_heads // num_kv_heads
    # One matrix per (sequence, KV head); its rows are (query head of the group, query).
    q = (q * attention.scale).astype(q.dtype).reshape(seqs, queries, num_kv_heads, group, head_dim)
    q = q.transpose(0, 2, 3, 1, 4).reshape(seqs, num_kv_heads, group * queries, head_dim)
    row_positions = jnp.broadcast_to(positions[:, None, :], (seqs, group, queries)).reshape(seqs, 1, -1, 1)
    dot = functools.partial(
        jnp.einsum,
        preferred_element_type=jnp.float32,
        precision=lax.Precision.HIGHEST if q.dtype == jnp.float32 else None,
    )

    def block(index: Int[Array, ""], carry: _Softmax, *, pages: int, masked: bool) -> _Softmax:
        largest, total, acc = carry
        k, v = _gather_block(attention.kv_pages, tables, index * pages, pages)
        scores = dot("shrd,shcd->shrc", q, k.astype(q.dtype))
        if attention.soft_cap is not None:
            scores = attention.soft_cap * jnp.tanh(scores / attention.soft_cap)
        if masked:
            columns = index * pages * attention.page_size + jnp.arange(pages * attention.page_size)
            seen = columns <= row_positions
            if attention.sliding_window is not None:
                seen &= columns > row_positions - attention.sliding_window
            scores = jnp.where(seen, scores, _MASKED)
            # A weight of zero does not cancel NaN, which freed pages may hold after another sequence went wrong.
            live = columns <= positions.max(axis=1, keepdims=True)
            v = jnp.where(live[:, None, :, None], v, 0)
        # Without the barrier XLA masks the scores once for the maximum and once more for the exponential.
        scores, new_largest = lax.optimization_barrier(
            (scores, jnp.maximum(largest, scores.max(axis=-1, keepdims=True)))
        )
        weights = jnp.exp(scores - new_largest)
        shrink = jnp.exp(largest - new_largest)
        total = total * shrink + weights.sum(axis=-1, keepdims=True)
        acc = acc * shrink + dot("shrc,shcd->shrd", weights.astype(q.dtype), v.astype(q.dtype))
        return new_largest, total, acc

    rows = (seqs, num_kv_heads, group * queries)
    carry = jnp.full((*rows, 1), _MASKED), jnp.zeros((*rows, 1)), jnp.zeros((*rows, head_dim))
    last = positions.max()
    earliest = jnp.where(positions < 0, last, positions).min()
    last_block_tokens = last_block_pages * attention.page_size
    first_block = jnp.int32(0)
    if attention.sliding_window is not None:
        first_block = jnp.maximum(earliest - attention.sliding_window + 1, 0) // last_block_tokens
    elif block_pages is not None:
        whole_blocks = (earliest + 1) // (block_pages * attention.page_size)
        carry = lax.fori_loop(0, whole_blocks, functools.partial(block, pages=block_pages, masked=False), carry)
        first_block = whole_blocks * (block_pages // last_block_pages)
    step = functools.partial(block, pages=last_block_pages, masked=True)
    _, total, acc = lax.fori_loop(first_block, last // last_block_tokens + 1, step, carry)
    result = (acc / jnp.where(total == 0.0, 1.0, total)).astype(q.dtype)
    result = result.reshape(seqs, num_kv_heads, group, queries, head_dim)
    return result.transpose(0, 3, 1, 2, 4).reshape(seqs, queries, num_q_heads, head_dim)


def _gather_block(
    kv_pages: Float[Array, "pages kv_heads page_size kv_dim"],
    tables: Int[Array, "seqs blocks"],
    first: Int[Array, ""],
    count: int,
) -> tuple[Float[Array, "seqs kv_heads block_tokens head_dim"], Float[Array, "seqs kv_heads block_tokens head_dim"]]:
    """Keys and values of `count` pages of each sequence, each in one gather: a slice of both would be one more copy."""
    _, num_kv_heads, page_size, kv_dim = kv_pages.shape
    seqs, head_dim = tables.shape[0], kv_dim // 2
    wanted = lax.dynamic_slice_in_dim(tables, first, count, axis=1)

    def gather(column: int) -> Array:
        def page(number: Int[Array, ""]) -> Array:
            return lax.dynamic_slice(kv_pages, (number, 0, 0, column), (1, num_kv_heads, page_size, head_dim))[0]

        pages = jax.vmap(jax.vmap(page))(wanted).swapaxes(1, 2)
        return pages.reshape(seqs, num_kv_heads, count * page_size, head_dim)

    return gather(0), gather(head_dim)


def _pad_to_multiple(tables: Int[Array, "seqs blocks"], multiple: int) -> Int[Array, "seqs padded_blocks"]:
    """Pads with page 0, so that a slice of `multiple` entries is never clamped to an earlier start."""
    return jnp.pad(tables, ((0, 0), (0, -tables.shape[1] % multiple)))


def unsupported(
    q: Array, kv_pages: Array, block_tables: Array, *, sliding_window: int | None, soft_cap: float | None
) -> str | None:
    """Why this cannot be done; there is nothing that it cannot."""
    del q, kv_pages, block_tables, sliding_window, soft_cap
    return None
