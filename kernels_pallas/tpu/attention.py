"""Paged attention on TPUs: one kernel for sequences that decode, one for chunks of queries.

Limits: block tables lie in scalar memory, of which v5e, v6e and v7x have 1 MiB. Of the two cores of a v5p, one works.
Heads of 96 are for plain XLA: its own layout of rows of 192 puts pages last, so the pool would be copied for the kernel
at each call, unless it were made row by row (`Format(Layout((0, 1, 2, 3)))` of jax.experimental.layout).
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Num

from kernels_pallas.tpu.blocks import PAGE_SIZE_MAX, Blocks, blocks_for
from kernels_pallas.tpu.decode import ROWS, decode
from kernels_pallas.tpu.numerics import Numerics
from kernels_pallas.tpu.prefill import prefill
from kernels_pallas.tpu.tiles import decode_tiles, prefill_tiles

_TABLE_ENTRIES_MAX = 240 << 10  # of four bytes each, so that 64 KiB of scalar memory are left for everything else
_HEAD_DIMS = (64, 128, 256)
_Q_DTYPES = ("bfloat16", "float32")
_PAGE_ROWS_MIN = {"float32": 8, "bfloat16": 16, "int8": 32, "float8_e4m3fn": 32}  # of a register


def unsupported(
    q: Array, kv_pages: Array, block_tables: Array, *, sliding_window: int | None, soft_cap: float | None
) -> str | None:
    """Why these kernels cannot do it, or None if they can; from shapes and types alone."""
    del sliding_window, soft_cap
    head_dim, page_size = q.shape[2], kv_pages.shape[2]
    if head_dim not in _HEAD_DIMS:
        return f"heads of {head_dim}, not of {', '.join(map(str, _HEAD_DIMS))}"
    if str(q.dtype) not in _Q_DTYPES:
        return f"queries of {q.dtype}"
    rows = _PAGE_ROWS_MIN.get(str(kv_pages.dtype))
    if rows is None:
        return f"KV of {kv_pages.dtype}"
    if page_size % rows or PAGE_SIZE_MAX % page_size:
        return f"pages of {page_size}, not a power of two from {rows} to {PAGE_SIZE_MAX}, with KV of {kv_pages.dtype}"
    seqs, blocks = block_tables.shape
    if block_tables.size > _TABLE_ENTRIES_MAX:
        return f"block tables of {seqs} sequences x {blocks} pages, more than {_TABLE_ENTRIES_MAX} entries"
    return None


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
    blocks: Blocks | None = None,
) -> Float[Array, "tokens q_heads head_dim"]:
    """See `kernels_pallas.attention.paged_attention`; scales of KV are not for here.

    Args:
      q: as there.
      kv_pages: as there.
      block_tables: as there.
      cu_q_lens: as there.
      kv_lens: as there.
      num_decodes: as there.
      num_seqs: as there.
      scale: as there.
      sliding_window: as there.
      soft_cap: as there.
      blocks: sizes; None takes those for the chip.
    """
    numerics = Numerics(scale, sliding_window, soft_cap, q.shape[2])
    sizes = blocks_for(q, kv_pages) if blocks is None else blocks
    scaled = (q.astype(jnp.float32) * numerics.factor).astype(q.dtype)
    tables = block_tables.astype(jnp.int32)

    def decoded() -> Array:
        return _decode(scaled, kv_pages, tables, kv_lens, num_decodes, numerics, sizes)

    def chunks(out: Array) -> Array:
        return _prefill(scaled, kv_pages, tables, cu_q_lens, kv_lens, num_decodes, num_seqs, numerics, sizes, out)

    # A step of decodes alone, or of chunks alone, does not pay for the other kernel's packing.
    zeros = jnp.zeros_like(q)
    out = lax.cond(jnp.asarray(num_decodes) > 0, decoded, lambda: zeros)
    return lax.cond(jnp.asarray(num_seqs) > num_decodes, chunks, lambda out: out, out)


def _decode(
    q: Float[Array, "tokens q_heads head_dim"],
    kv_pages: Num[Array, "pages kv_heads page_size kv_dim"],
    tables: Int[Array, "seqs blocks"],
    kv_lens: Int[Array, "seqs"],
    num_decodes: Int[Array, ""] | int,
    numerics: Numerics,
    blocks: Blocks,
) -> Float[Array, "tokens q_heads head_dim"]:
    """Attends for the first `num_decodes` tokens; zero for others."""
    tokens, q_heads, head_dim = q.shape
    kv_heads = kv_pages.shape[1]
    seqs, group = min(kv_lens.shape[0], tokens), q_heads // kv_heads
    rows = -(-group // ROWS) * ROWS
    heads = q[:seqs].reshape(seqs, kv_heads, group, head_dim)
    padding = ((0, 0), (0, 0), (0, rows - group), (0, numerics.lanes - head_dim))
    tiles = decode_tiles(kv_lens[:seqs], num_decodes)
    out = decode(jnp.pad(heads, padding), kv_pages, tables[:seqs], tiles, numerics, blocks.decode)
    out = out[:, :, :group, numerics.out_slice].reshape(seqs, q_heads, head_dim)
    live = jnp.arange(seqs)[:, None, None] < num_decodes
    return jnp.pad(jnp.where(live, out, 0), ((0, tokens - seqs), (0, 0), (0, 0)))


def _prefill(
    q: Float[Array, "tokens q_heads head_dim"],
    kv_pages: Num[Array, "pages kv_heads page_size kv_dim"],
    tables: Int[Array, "seqs blocks"],
    cu_q_lens: Int[Array, "seqs_plus_1"],
    kv_lens: Int[Array, "seqs"],
    num_decodes: Int[Array, ""] | int,
    num_seqs: Int[Array, ""] | int,
    numerics: Numerics,
    blocks: Blocks,
    others: Float[Array, "tokens q_heads head_dim"],
) -> Float[Array, "tokens q_heads head_dim"]:
    """Attends for the tokens of chunks; `others` for others."""
    tokens, q_heads, head_dim = q.shape
    unit_heads = blocks.prefill.unit_heads
    units = q_heads // unit_heads
    tiles, packing = prefill_tiles(
        cu_q_lens, kv_lens, num_decodes, num_seqs, tokens=tokens, tile_tokens=blocks.prefill.tile_tokens
    )
    packed = jnp.pad(q[packing.tokens], ((0, 0), (0, 0), (0, numerics.stride - head_dim)))
    packed = packed.reshape(-1, units, unit_heads * numerics.stride).swapaxes(0, 1)
    out = prefill(packed, kv_pages, tables, tiles, numerics, blocks.prefill)
    out = out[:, packing.rows].swapaxes(0, 1).reshape(tokens, q_heads, numerics.stride)[:, :, numerics.out_slice]
    return jnp.where(packing.in_chunk[:, None, None], out, others)
