"""Lists of work: each block of KV and each query token is in one of them exactly once."""

import jax
import numpy as np
import pytest

from kernels_pallas.gpu.units import decode_units, prefill_tiles

BLOCK = 64


@pytest.mark.parametrize("wanted", [1, 4, 33])
@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize(
    ("kv_lens", "num_decodes"), [([1], 1), ([64, 65, 9000, 3], 4), ([5, 700, 80], 2), ([7, 7], 0), ([100] * 9, 9)]
)
def test_units_hold_each_block_once_and_are_equally_long(kv_lens, num_decodes, window, wanted):
    units = jax.jit(
        lambda lens: decode_units(lens, num_decodes, block_tokens=BLOCK, sliding_window=window, wanted=wanted)
    )(np.asarray(kv_lens, np.int32))
    seqs, firsts, ends = map(np.asarray, units)
    found = sorted((int(seq), block) for seq, *span in zip(seqs, firsts, ends, strict=True) for block in range(*span))
    first_blocks = [0 if window is None else max(0, kv_len - window) // BLOCK for kv_len in kv_lens]
    assert found == [
        (seq, block) for seq in range(num_decodes) for block in range(first_blocks[seq], -(-kv_lens[seq] // BLOCK))
    ]
    assert (ends - firsts).max() <= max(1, -(-len(found) // wanted))


@pytest.mark.parametrize("tile_tokens", [1, 5, 32])
@pytest.mark.parametrize(
    ("q_lens", "kv_lens", "num_decodes", "padding_seqs"),
    [
        ([1], [1], 0, 0),
        ([1, 1, 40, 1, 7], [9, 8, 40, 1, 600], 2, 3),
        ([3, 0, 64], [3, 0, 70], 0, 0),
        ([1, 1], [4, 5], 2, 1),
    ],
)
def test_tiles_hold_each_token_once(q_lens, kv_lens, num_decodes, padding_seqs, tile_tokens):
    starts = np.cumsum([0, *q_lens, *[0] * padding_seqs]).astype(np.int32)
    padded_lens = np.asarray([*kv_lens, *[0] * padding_seqs], np.int32)
    tokens = int(starts[-1]) + 3
    tiles = prefill_tiles(starts, padded_lens, num_decodes, len(q_lens), tokens=tokens, tile_tokens=tile_tokens)
    seqs, first_rows, positions, end_tokens, of_seqs = map(np.asarray, tiles)
    found = []
    for tile in np.flatnonzero(end_tokens):
        seq = seqs[tile]
        count = end_tokens[tile] - positions[tile]
        assert 0 < count <= tile_tokens
        assert tile - of_seqs[seq] == (first_rows[tile] - starts[seq]) // tile_tokens
        assert positions[tile] - first_rows[tile] == padded_lens[seq] - q_lens[seq] - starts[seq]
        found.extend(first_rows[tile] + np.arange(count))
    assert found == list(range(sum(q_lens[:num_decodes]), sum(q_lens)))
