"""The Hopper and Blackwell kernels against dense attention, interpreted on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels_pallas.gpu.attention import unsupported
from tests.kernels.gpu import interpreted


@pytest.fixture(scope="module")
def run():
    with interpreted.other_process() as call:
        yield call


def is_right(result):
    out, expected, raced = result
    close = np.allclose(out[: len(expected)], expected, atol=2e-2, rtol=2e-2)
    return close and np.isfinite(out).all() and not raced


@pytest.mark.parametrize(
    "name",
    [
        "one_token_decode",
        "page_boundary",
        "empty_slot",
        "multi_head",
        "smollm2_heads",
        "head_dim_96",
        "head_dim_256",
        "sliding_window_of_one",
        "soft_cap",
        "page_256",
        "no_sequences",
    ],
)
def test_hopper_equals_dense(run, name):
    assert is_right(run(name))


@pytest.mark.parametrize("name", ["mixed_with_padding", "sliding_window", "head_dim_256", "slots_used_again"])
def test_hopper_has_no_races(run, name):
    assert is_right(run(name, races=True))


@pytest.mark.parametrize("name", ["slots_used_again", "head_dim_96", "one_page_of_many_seen"])
def test_blackwell_equals_dense_without_races(run, name):
    assert is_right(run(name, races=True, blackwell=True))


@pytest.mark.parametrize("mutation", interpreted.MUTATIONS)
def test_what_is_wrong_is_caught(mutation):
    with interpreted.other_process() as call:
        try:
            result = call("slots_used_again", races=True, mutation=mutation)
        except jax.errors.JaxRuntimeError:
            return  # the interpreter stopped it
        assert not is_right(result)


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
    said = unsupported(q, pages, jax.ShapeDtypeStruct((4, 8), jnp.int32), sliding_window=None, soft_cap=None)
    assert said is None if reason is None else reason in said
