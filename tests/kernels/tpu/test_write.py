"""Writing rows into pages, in place, tile by tile."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from kernels_pallas.pages import kv_pages_shape
from kernels_pallas.tpu import write

PAGES, PAGE_SIZE, KV_HEADS, HEAD_DIM = 6, 32, 2, 64
OUTSIDE = PAGES * PAGE_SIZE

MODES = {
    "lazy": pltpu.InterpretParams(),
    "eager, races": pltpu.InterpretParams(dma_execution_mode="eager", detect_races=True),
}
# Slots of each sequence's new tokens; sequences lie behind each other, then padding.
SEQUENCES = {
    "one_token": [[37]],
    "decodes": [[5], [63], [64], [191], [100]],
    "a_whole_page": [list(range(32, 64))],
    "from_the_middle_of_a_tile_over_pages": [list(range(40, 64)) + list(range(160, 192)) + list(range(0, 7))],
    "chunks_and_decodes": [[95], [3], list(range(130, 143)), list(range(32, 61))],
    "nothing": [],
}


def run(slots, dtype, max_seqs):
    rng = np.random.default_rng(0)
    pool = rng.integers(-100, 100, kv_pages_shape(PAGES, PAGE_SIZE, KV_HEADS, HEAD_DIM)).astype(jnp.dtype(dtype))
    rows = rng.integers(-100, 100, (len(slots), KV_HEADS, 2 * HEAD_DIM)).astype(jnp.dtype(dtype))
    expected = pool.copy()
    for row, slot in zip(rows, slots, strict=True):
        if 0 <= slot < OUTSIDE:
            expected[slot // PAGE_SIZE, :, slot % PAGE_SIZE] = row
    written = jax.jit(write.write_rows, static_argnums=3)(pool, rows, jnp.asarray(slots, jnp.int32), max_seqs)
    return np.asarray(written).astype(np.float32), expected.astype(np.float32)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_the_rows_change_and_nothing_else(name, dtype, mode):
    sequences = SEQUENCES[name]
    slots = [slot for sequence in sequences for slot in sequence] + [OUTSIDE, -1, OUTSIDE + 5]
    with pltpu.force_tpu_interpret_mode(MODES[mode]):
        written, expected = run(slots, dtype, max(len(sequences), 1))
    np.testing.assert_array_equal(written, expected)


def test_a_wait_that_is_dropped_is_found(monkeypatch):
    """Of the tile that arrives: it would be merged too early."""
    copy = pltpu.make_async_copy

    def hasty(source, target, semaphore):
        made = copy(source, target, semaphore)
        made.wait = lambda: None
        return made

    monkeypatch.setattr(write.pltpu, "make_async_copy", hasty)
    with pltpu.force_tpu_interpret_mode(MODES["lazy"]):
        written, expected = run([*range(40, 64), 100], "float32", 2)
    assert not np.array_equal(written, expected)


@pytest.mark.parametrize(
    ("shape", "dtype", "can"),
    [((4, 2, 16, 256), "bfloat16", True), ((4, 2, 8, 256), "bfloat16", False), ((4, 2, 32, 192), "bfloat16", False)],
)
def test_pages_of_whole_tiles_can_be_written(shape, dtype, can):
    assert write.can_write(jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))) is can
