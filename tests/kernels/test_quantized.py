"""KV of one byte a number, with scales."""

import jax.numpy as jnp
import numpy as np
import pytest

from kernels_pallas.attention import kv_pages_shape, paged_attention, write_kv

TOKENS, Q_HEADS, KV_HEADS, HEAD_DIM, PAGE = 40, 4, 2, 32, 16
SCALES = np.array([[0.02, 0.05], [0.03, 0.01]], np.float32)
DTYPES = (jnp.int8, jnp.float8_e4m3fn)


def written(dtype, k, v, scales=SCALES):
    pool = jnp.zeros(kv_pages_shape(4, PAGE, KV_HEADS, HEAD_DIM), dtype)
    return write_kv(pool, k, v, jnp.arange(TOKENS), None if scales is None else jnp.asarray(scales))


def attend(q, pages, scales=None):
    return paged_attention(
        q,
        pages,
        jnp.arange(4)[None],
        jnp.array([0, len(q)]),
        jnp.array([TOKENS]),
        num_decodes=0,
        num_seqs=1,
        scale=HEAD_DIM**-0.5,
        kv_scales=scales,
    )


@pytest.fixture
def heads():
    rng = np.random.default_rng(0)
    k, v = rng.standard_normal((2, TOKENS, KV_HEADS, HEAD_DIM)).astype(np.float32)
    return rng.standard_normal((5, Q_HEADS, HEAD_DIM)).astype(np.float32), k, v


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_reads_what_was_stored_times_its_scale(heads, dtype):
    q, k, v = heads
    pages = written(dtype, k, v)
    assert pages.dtype == dtype
    # The same numbers in float32, scaled beforehand.
    factors = np.repeat(SCALES.T[:, None], HEAD_DIM, axis=1).swapaxes(1, 2).reshape(KV_HEADS, 1, 2 * HEAD_DIM)
    meant = pages.astype(jnp.float32) * factors
    out = attend(q, pages, jnp.asarray(SCALES))
    np.testing.assert_allclose(out, attend(q, meant), atol=2e-5, rtol=2e-5)


def test_int8_is_rounded_to_half_a_scale(heads):
    _, k, v = heads
    pages = np.asarray(written(jnp.int8, k, v), np.float32)
    stored_k = pages[:, :, :, :HEAD_DIM].swapaxes(1, 2).reshape(-1, KV_HEADS, HEAD_DIM)[:TOKENS]
    inside = np.abs(k) < 127 * SCALES[0][:, None]
    error = np.abs(stored_k * SCALES[0][:, None] - k) / SCALES[0][:, None]
    assert error[inside].max() <= 0.5 + 1e-4
    assert inside.mean() > 0.9


@pytest.mark.parametrize(("dtype", "largest"), [(jnp.int8, 127.0), (jnp.float8_e4m3fn, 448.0)])
def test_what_is_out_of_range_becomes_the_nearest_number(heads, dtype, largest):
    _, k, v = heads
    pages = np.asarray(written(dtype, np.full_like(k, 1e6), v), np.float32)
    assert (pages[0, :, :, :HEAD_DIM] == largest).all()


@pytest.mark.parametrize(
    ("dtype", "scales", "message"),
    [
        (jnp.int8, None, r"KV of int8 needs scales \[2, 2\]"),
        (jnp.float32, SCALES, "KV of float32 takes no scales"),
        (jnp.int8, SCALES[:, :1], r"scales of KV are \[2, 1\], but must be \[2, 2\]"),
    ],
)
def test_scales_belong_to_quantized_pages(heads, dtype, scales, message):
    q, k, v = heads
    with pytest.raises(ValueError, match=message):
        written(dtype, k, v, scales)
    pages = jnp.zeros(kv_pages_shape(4, PAGE, KV_HEADS, HEAD_DIM), dtype)
    with pytest.raises(ValueError, match=message):
        attend(q, pages, scales)
