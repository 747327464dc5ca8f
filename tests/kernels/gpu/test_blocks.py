"""Bytes that decoding reads, by construction."""

import pytest

from kernels_pallas.gpu.blocks import bytes_per_kv_token, decode_blocks


@pytest.mark.parametrize("page_size", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("kv_len", [8192, 8193, 100_001])
@pytest.mark.parametrize("head_dim", [64, 96, 128])
def test_long_contexts_read_little_more_than_their_kv(page_size, kv_len, head_dim):
    blocks = decode_blocks(head_dim, blackwell=False)
    least = 2 * head_dim * 2
    assert least <= bytes_per_kv_token(kv_len, page_size, head_dim, blocks) <= 1.05 * least


@pytest.mark.parametrize(("page_size", "fetched"), [(16, 16), (64, 64), (256, 64)])
def test_one_token_reads_one_page_or_a_block_of_it(page_size, fetched):
    blocks = decode_blocks(128, blackwell=False)
    table_entry_bytes = 4
    assert bytes_per_kv_token(1, page_size, 128, blocks) == fetched * 2 * 128 * 2 + table_entry_bytes
