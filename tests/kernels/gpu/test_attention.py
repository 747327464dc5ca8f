"""The Hopper and Blackwell kernels against dense attention, interpreted on a CPU."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels_pallas.gpu.attention import unsupported
from tests.kernels.gpu import interpreted

_HANG_S = 120  # a wrong number of arrivals at a barrier waits for ever


@pytest.fixture(scope="module")
def run():
    """`interpreted.run` in another process, which is stopped if it hangs."""
    before = os.environ.get("NPROC")
    os.environ["NPROC"] = str(interpreted.POOL_THREADS)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:

            def call(name, **options):
                try:
                    return pool.submit(interpreted.run, name, **options).result(timeout=_HANG_S)
                except TimeoutError:
                    for process in pool._processes.values():
                        process.kill()
                    raise

            yield call
        finally:
            os.environ.pop("NPROC") if before is None else os.environ.update(NPROC=before)


def check(out, expected):
    np.testing.assert_allclose(out[: len(expected)], expected, atol=2e-2, rtol=2e-2)
    assert np.isfinite(out).all()


@pytest.mark.parametrize(
    "name",
    [
        "one_token_decode",
        "page_boundary",
        "decode_only",
        "mixed_with_padding",
        "empty_slot",
        "multi_head",
        "multi_query",
        "smollm2_heads",
        "head_dim_96",
        "sliding_window",
        "soft_cap",
        "page_64",
        "page_256",
        "no_sequences",
    ],
)
def test_hopper_equals_dense(run, name):
    out, expected, _ = run(name)
    check(out, expected)


@pytest.mark.parametrize("name", ["mixed_with_padding", "sliding_window"])
def test_hopper_has_no_races(run, name):
    out, expected, raced = run(name, races=True)
    check(out, expected)
    assert not raced


@pytest.mark.parametrize(
    ("q_dtype", "kv_dtype", "head_dim", "page_size", "reason"),
    [
        ("bfloat16", "bfloat16", 128, 16, None),
        ("float32", "float32", 128, 16, "queries are float32 and KV is float32"),
        ("bfloat16", "int8", 128, 16, "KV is int8"),
        ("bfloat16", "bfloat16", 80, 16, "head_dim is 80"),
        ("bfloat16", "bfloat16", 128, 24, "page_size is 24"),
    ],
)
def test_what_the_kernels_cannot_do_is_said(q_dtype, kv_dtype, head_dim, page_size, reason):
    q = jax.ShapeDtypeStruct((8, 8, head_dim), jnp.dtype(q_dtype))
    pages = jax.ShapeDtypeStruct((4, 2, page_size, 2 * head_dim), jnp.dtype(kv_dtype))
    said = unsupported(q, pages)
    assert said is None if reason is None else reason in said
