"""Writing into pages: the right rows change, nothing else does, and the pool is not copied."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels_pallas import attention, pages

PAGES, PAGE_SIZE, KV_HEADS, HEAD_DIM = 6, 4, 2, 8
SHAPE = attention.kv_pages_shape(PAGES, PAGE_SIZE, KV_HEADS, HEAD_DIM)


def random_pool_and_kv(tokens):
    rng = np.random.default_rng(0)
    pool = rng.standard_normal(SHAPE).astype(np.float32)
    return pool, *rng.standard_normal((2, tokens, KV_HEADS, HEAD_DIM)).astype(np.float32)


@pytest.mark.parametrize(
    "slots", [[5], [24], [-1], [0, 23], [3, 4, 100, 17, 24, -1], list(range(9, 20)), [7, 6, 5, 4, 3]]
)
def test_write_kv_changes_only_its_slots(slots):
    pool, k, v = random_pool_and_kv(len(slots))
    out = np.asarray(attention.write_kv(jnp.asarray(pool), k, v, jnp.asarray(slots, jnp.int32)))
    expected = pool.copy()
    for row, slot in enumerate(slots):
        if 0 <= slot < PAGES * PAGE_SIZE:
            page, offset = divmod(slot, PAGE_SIZE)
            expected[page, :, offset, :HEAD_DIM] = k[row]
            expected[page, :, offset, HEAD_DIM:] = v[row]
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("tokens", [1, 8, 64])
def test_write_and_read_do_not_copy_a_donated_pool(tokens):
    shape = attention.kv_pages_shape(4096, 16, KV_HEADS, 32)

    def step(pool, q, k, v, slots, tables, cu_q_lens, kv_lens, num_decodes, num_seqs):
        pool = attention.write_kv(pool, k, v, slots)
        counts = {"num_decodes": num_decodes, "num_seqs": num_seqs}
        return attention.paged_attention(q, pool, tables, cu_q_lens, kv_lens, scale=1.0, **counts), pool

    def array(*shape, dtype=np.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    kv = array(tokens, KV_HEADS, 32)
    integers = [array(*shape, dtype=np.int32) for shape in [(tokens,), (4, 64), (5,), (4,), (), ()]]
    lowered = jax.jit(step, donate_argnums=0).lower(array(*shape), array(tokens, 4, 32), kv, kv, *integers)
    memory = lowered.compile().memory_analysis()
    pool_bytes = int(np.prod(shape)) * 4
    assert memory.alias_size_in_bytes == pool_bytes
    assert memory.temp_size_in_bytes < pool_bytes // 4


def random_layers(layers):
    return tuple(np.random.default_rng(layer).standard_normal(SHAPE).astype(np.float32) for layer in range(layers))


@pytest.mark.parametrize("gather", [attention.gather_pages, pages.gather_at_once, pages.gather_by_slices])
def test_gather_puts_the_layers_of_each_page_side_by_side(gather):
    layers = random_layers(3)
    contents = jax.jit(gather)(layers, jnp.asarray([4, 0, 2, 4]))
    np.testing.assert_array_equal(contents, np.stack([layer[[4, 0, 2, 4]] for layer in layers], axis=1))


@pytest.mark.parametrize("scatter", [attention.scatter_pages, pages.scatter_at_once, pages.scatter_by_slices])
def test_scatter_changes_its_pages_only(scatter):
    layers = random_layers(3)
    contents = np.random.default_rng(9).standard_normal((2, 3, *SHAPE[1:])).astype(np.float32)
    out = jax.jit(scatter)(layers, jnp.asarray([5, 1]), contents)
    for number, (layer, got) in enumerate(zip(layers, out, strict=True)):
        layer[[5, 1]] = contents[:, number]
        np.testing.assert_array_equal(got, layer)


@pytest.mark.parametrize("count", [1, 16])
def test_scatter_does_not_copy_donated_pools(count):
    layers = [jax.ShapeDtypeStruct((256, *SHAPE[1:]), np.float32)] * 3
    contents = jax.ShapeDtypeStruct((count, 3, *SHAPE[1:]), np.float32)
    scatter = jax.jit(attention.scatter_pages, donate_argnums=0)
    memory = scatter.lower(layers, jax.ShapeDtypeStruct((count,), np.int32), contents).compile().memory_analysis()
    pool_bytes = 256 * int(np.prod(SHAPE[1:])) * 4
    assert memory.alias_size_in_bytes == 3 * pool_bytes
    assert memory.temp_size_in_bytes < pool_bytes // 4
