"""Tiles cover each query of each chunk once, and packed rows lead back to the queries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels_pallas.tpu.attention import unsupported
from kernels_pallas.tpu.blocks import DecodeBlocks, blocks_for
from kernels_pallas.tpu.tiles import ALIGNMENT_ROWS, prefill_tiles


@pytest.mark.parametrize("q_lens", [(1, 1, 40, 0, 7), (1, 1), (1, 1, 64, 32), (1, 1, 1, 1, 1)])
def test_tiles_cover_each_query_once(q_lens):
    num_decodes, tile_tokens = 2, 32
    cu_q_lens = np.concatenate([[0], np.cumsum([*q_lens, 0])]).astype(np.int32)  # one sequence of padding
    kv_lens = np.array([*q_lens, 0], np.int32) + 100
    tokens = int(cu_q_lens[-1]) + 5
    tiles, packing = prefill_tiles(
        jnp.asarray(cu_q_lens),
        jnp.asarray(kv_lens),
        num_decodes,
        len(q_lens),
        tokens=tokens,
        tile_tokens=tile_tokens,
    )
    seen = np.zeros(tokens, int)
    for tile in range(int(tiles.number[0])):
        seq, position = int(tiles.seqs[tile]), int(tiles.positions[tile])
        count = int(tiles.ends[tile]) - position
        assert 0 < count <= tile_tokens
        assert tiles.rows[tile] % ALIGNMENT_ROWS == 0
        assert tiles.rows[tile] + tile_tokens <= len(packing.tokens)
        queries = cu_q_lens[seq + 1] - kv_lens[seq] + np.arange(position, position + count)
        seen[queries] += 1
        np.testing.assert_array_equal(packing.tokens[tiles.rows[tile] :][:count], queries)
        np.testing.assert_array_equal(packing.rows[queries], tiles.rows[tile] + np.arange(count))
    in_chunk = np.arange(tokens)
    in_chunk = (in_chunk >= num_decodes) & (in_chunk < cu_q_lens[-1])
    np.testing.assert_array_equal(seen, in_chunk)
    np.testing.assert_array_equal(packing.in_chunk, in_chunk)


@pytest.mark.parametrize(
    ("head_dim", "page_size", "q_dtype", "kv_dtype", "reason"),
    [
        (128, 16, jnp.bfloat16, jnp.bfloat16, None),
        (64, 8, jnp.float32, jnp.float32, None),
        (256, 32, jnp.bfloat16, jnp.int8, None),
        (32, 16, jnp.float32, jnp.float32, "heads of 32"),
        (128, 16, jnp.bfloat16, jnp.int8, "pages of 16"),
        (128, 48, jnp.bfloat16, jnp.bfloat16, "pages of 48"),
        (128, 512, jnp.bfloat16, jnp.bfloat16, "pages of 512"),
        (128, 16, jnp.float16, jnp.bfloat16, "queries of float16"),
    ],
)
def test_what_is_unsupported_is_named(head_dim, page_size, q_dtype, kv_dtype, reason):
    q, pages = jnp.zeros((1, 4, head_dim), q_dtype), jnp.zeros((1, 2, page_size, 2 * head_dim), kv_dtype)
    said = unsupported(q, pages, jnp.zeros((1, 4), jnp.int32), sliding_window=None, soft_cap=None)
    assert said is None if reason is None else said.startswith(reason)


def test_block_tables_that_scalar_memory_cannot_hold_are_named():
    q, pages = jnp.zeros((1, 4, 128)), jnp.zeros((1, 2, 16, 256))

    def said(seqs, blocks):
        tables = jax.ShapeDtypeStruct((seqs, blocks), jnp.int32)
        return unsupported(q, pages, tables, sliding_window=None, soft_cap=None)

    assert said(120, 2048) is None
    assert said(121, 2048) == "block tables of 121 sequences x 2048 pages, more than 245760 entries"


@pytest.mark.parametrize(("q_heads", "kv_heads"), [(32, 8), (8, 2), (4, 1), (28, 4), (9, 3), (1, 1)])
def test_units_divide_the_heads(q_heads, kv_heads):
    blocks = blocks_for(jnp.zeros((1, q_heads, 128)), jnp.zeros((1, kv_heads, 16, 256)))
    assert (q_heads // kv_heads) % blocks.prefill.unit_heads == 0


def test_sizes_that_cannot_be_are_named():
    with pytest.raises(ValueError, match="tokens is 100, but must be a positive multiple of 128"):
        DecodeBlocks(tokens=100, slots=2, heads_ahead=1, vmem_limit_bytes=1)
