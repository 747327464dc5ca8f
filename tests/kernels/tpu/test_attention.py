"""The TPU kernels against dense attention, interpreted on a CPU; blocks are small, so that there are many."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from kernels_pallas.attention import paged_attention, write_kv
from kernels_pallas.tpu import attention, numerics, stream
from kernels_pallas.tpu.blocks import Blocks, DecodeBlocks, PrefillBlocks
from tests.kernels.test_attention import CASES, Case, run_paged

SMALL = Blocks(
    DecodeBlocks(tokens=128, slots=2, heads_ahead=1, vmem_limit_bytes=1 << 24),
    PrefillBlocks(tokens=128, slots=2, tile_tokens=32, unit_heads=1, vmem_limit_bytes=1 << 24),
)
AS_ON_CHIP = pltpu.InterpretParams()
# Copies happen when they are started, and what is read without having waited for it is reported.
RACES = pltpu.InterpretParams(dma_execution_mode="eager", detect_races=True)

SHARED = (
    "one_token",
    "page_boundary",
    "decode_only",
    "mixed_with_padding",
    "empty_slot",
    "multi_query",
    "smollm2_heads",
    "sliding_window",
    "sliding_window_of_one",
    "soft_cap",
    "page_64",
    "no_sequences",
)
TPU_CASES = {
    # Heads of 32 are not for these kernels.
    name: dataclasses.replace(CASES[name], head_dim=max(64, CASES[name].head_dim))
    for name in SHARED
} | {
    "tiles_and_blocks": Case((70, 33, 32), (70, 200, 290), head_dim=64, q_heads=2, kv_heads=1),
    "heads_of_128": Case((1, 1, 40), (300, 16, 170), num_decodes=2, head_dim=128, padding_tokens=3),
    "heads_of_256": Case((1, 20), (140, 140), num_decodes=1, head_dim=256, q_heads=2, kv_heads=1),
    "many_whole_blocks": Case((1, 1, 70), (1100, 512, 900), num_decodes=2, head_dim=64, page_size=64, q_heads=2),
    "one_unit": Case((5, 70), (5, 300), head_dim=64, q_heads=1, kv_heads=1),
}
RACE_CASES = ("decode_only", "mixed_with_padding", "sliding_window", "many_whole_blocks")


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(attention, "blocks_for", lambda q, kv_pages: SMALL)


def check(case, *, dtype=jnp.float32, tolerance=2e-5, params=AS_ON_CHIP):
    with pltpu.force_tpu_interpret_mode(params):
        out, expected = run_paged(case, dtype, implementation="mosaic_tpu")
    np.testing.assert_allclose(out[: len(expected)], expected, atol=tolerance, rtol=tolerance)
    assert np.isfinite(out).all()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", TPU_CASES)
def test_float32_equals_dense(name):
    check(TPU_CASES[name])


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", ["mixed_with_padding", "heads_of_128", "many_whole_blocks", "soft_cap"])
def test_bfloat16_is_close_to_dense(name):
    check(TPU_CASES[name], dtype=jnp.bfloat16, tolerance=2e-2)


@pytest.mark.parametrize("name", ["page_256", "smollm2_heads"])
def test_blocks_of_a_chip(name):
    check(dataclasses.replace(CASES[name], head_dim=64))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", RACE_CASES)
def test_no_copy_is_read_before_it_is_there(name):
    check(TPU_CASES[name], params=RACES)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("slots", [1, 3, 4])
def test_any_number_of_slots(monkeypatch, slots):
    blocks = Blocks(dataclasses.replace(SMALL.decode, slots=slots), dataclasses.replace(SMALL.prefill, slots=slots))
    monkeypatch.setattr(attention, "blocks_for", lambda q, kv_pages: blocks)
    check(TPU_CASES["many_whole_blocks"])


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("unit_heads", [1, 2, 4])
def test_any_cut_into_units(monkeypatch, unit_heads):
    prefill = dataclasses.replace(SMALL.prefill, unit_heads=unit_heads)
    monkeypatch.setattr(attention, "blocks_for", lambda q, kv_pages: dataclasses.replace(SMALL, prefill=prefill))
    check(Case((50, 40), (200, 140), head_dim=64, q_heads=8, kv_heads=2))


@pytest.mark.usefixtures("small_blocks")
def test_what_lies_behind_a_sequence_does_not_count():
    tokens, lens = 40, jnp.array([1, 37], jnp.int32)

    def attend(filling):
        pool = jnp.full((12, 2, 16, 128), filling, jnp.float32)
        rows = jax.random.normal(jax.random.key(0), (2, 38, 2, 64))
        slots = jnp.concatenate([jnp.array([3 * 16]), 4 * 16 + jnp.arange(37)])
        tables = jnp.array([[3, 9, 9, 9], [4, 5, 6, 9]])
        q = jax.random.normal(jax.random.key(1), (tokens, 4, 64))
        return paged_attention(
            q,
            write_kv(pool, *rows, slots),
            tables,
            jnp.array([0, 1, 38]),
            lens,
            num_decodes=1,
            num_seqs=2,
            scale=0.2,
            implementation="mosaic_tpu",
        )

    with pltpu.force_tpu_interpret_mode(AS_ON_CHIP):
        np.testing.assert_array_equal(attend(np.nan), attend(0.0))


# What the tests above are for: each of these mistakes must be caught.


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("params", [AS_ON_CHIP, RACES])
@pytest.mark.parametrize("name", ["decode_only", "one_unit"])
def test_a_dropped_wait_is_caught(monkeypatch, name, params):
    monkeypatch.setattr(stream, "wait", lambda copy: None)
    with pytest.raises(Exception, match=r"Not equal|isfinite|[Rr]ace"):
        check(TPU_CASES[name], params=params)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", ["decode_only", "one_unit"])
def test_a_wrong_mask_is_caught(monkeypatch, name):
    monkeypatch.setattr(numerics.Numerics, "sees", lambda self, positions, columns: columns < positions)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check(TPU_CASES[name])


@pytest.mark.usefixtures("small_blocks")
def test_a_reused_buffer_is_caught(monkeypatch):
    monkeypatch.setattr(stream, "following", lambda slot, slots: slot)
    with pytest.raises(Exception, match=r"Not equal|[Rr]ace"):
        check(TPU_CASES["decode_only"], params=RACES)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", [jnp.int8, jnp.float8_e4m3fn])
def test_kv_of_one_byte_equals_plain_xla(dtype):
    scales = jnp.full((2, 2), 0.02)
    rows = jax.random.normal(jax.random.key(0), (2, 70, 2, 64))
    pool = write_kv(jnp.zeros((4, 2, 32, 128), dtype), *rows, jnp.arange(70), scales)
    q = jax.random.normal(jax.random.key(1), (20, 4, 64))

    def attend(implementation):
        arguments = q, pool, jnp.array([[0, 1, 2], [0, 1, 2]]), jnp.array([0, 1, 20]), jnp.array([60, 70])
        counts = {"num_decodes": 1, "num_seqs": 2}
        return paged_attention(*arguments, **counts, scale=0.2, kv_scales=scales, implementation=implementation)

    with pltpu.force_tpu_interpret_mode(AS_ON_CHIP):
        np.testing.assert_allclose(attend("mosaic_tpu"), attend("xla"), atol=2e-5, rtol=2e-5)
