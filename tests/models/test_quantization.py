"""int8 weights: how near they are, and that no copy of them in floating point is made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models import registry, tiny_random
from s2l_jax.models.linear import Linear, int8_matmul
from s2l_jax.models.llama import Llama
from s2l_jax.models.model_check import ModelCheck, describe
from s2l_jax.models.quantization import quantize
from s2l_jax.models.sharding import build_on
from tests.models.test_llama import FAMILY, TOKENS, dense_logits, random_weights, run_in_chunks


def test_the_nearest_of_255_values_is_taken_row_by_row():
    weight = np.random.default_rng(0).standard_normal((6, 50)).astype(np.float32) * 10.0 ** np.arange(-3, 3)[:, None]
    weight[3] = 0
    weight = weight.astype(np.float32)
    values, scales = quantize(jnp.asarray(weight))
    assert (values.dtype, scales.dtype) == (jnp.int8, jnp.float32)
    error = np.abs(np.asarray(values, np.float32) * np.asarray(scales)[:, None] - weight)
    assert (error <= np.asarray(scales)[:, None] * 0.5001).all()
    assert np.abs(np.asarray(values)).max(axis=1).tolist() == [127, 127, 127, 0, 127, 127]


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("shape", [(24, 16), (1536, 576), (1031, 576)])
def test_the_product_is_that_of_the_widened_weight(rows, shape):
    random = np.random.default_rng(1)
    x = random.standard_normal((rows, shape[1])).astype(np.float32)
    weight = random.integers(-127, 128, shape).astype(np.int8)
    expected = x.astype(np.float64) @ weight.T.astype(np.float64)
    np.testing.assert_allclose(int8_matmul(jnp.asarray(x), jnp.asarray(weight)), expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("name", ["smollm2_tied", "qwen3", "all_biases_linear"])
def test_a_quantised_model_is_the_dense_one_of_the_rounded_weights(name):
    config, weights = FAMILY[name], random_weights(FAMILY[name])
    rounded = dict(weights)
    for key, value in weights.items():
        if key.endswith("_proj.weight"):
            scale = np.abs(value).max(axis=1, keepdims=True) / np.float32(127)
            rounded[key] = np.round(value / scale) * scale
    expected = dense_logits(config, rounded, TOKENS)
    model = build_on(jax.devices()[:1], config, weights, "float32", "int8")
    scale = np.abs(expected).max()
    np.testing.assert_allclose(run_in_chunks(model, (30, 1, 10)) / scale, expected / scale, atol=5e-5)


@pytest.mark.parametrize("rows", [1, 64])
def test_a_weight_is_never_widened_as_a_whole(rows):
    linear = Linear(jnp.zeros((4096, 512), jnp.int8), scale=jnp.ones(4096))
    graph, state = nnx.split(linear)
    x = jax.ShapeDtypeStruct((rows, 512), jnp.float32)
    compiled = jax.jit(lambda state, x: nnx.merge(graph, state)(x)).lower(state, x).compile()
    part_bytes, output_bytes = 1 << 20, 4 * rows * 4096
    assert compiled.memory_analysis().temp_size_in_bytes < part_bytes + 2 * output_bytes + 10_000
    assert 4 * linear.weight[...].size == 8 * part_bytes


def test_memory_is_counted():
    plain, int8 = registry.load("tiny-random"), registry.load("tiny-random", quantization="int8")
    facts = describe(int8)
    assert facts["quantization"] == "int8"
    assert facts["weights_bytes"] < 0.6 * describe(plain)["weights_bytes"]  # half of this one is embedding
    assert facts["weights_bytes"] == sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(int8.build())))


def test_a_model_that_is_quantised_at_load_passes_the_checks():
    assert all(result.passed for result in ModelCheck("tiny-random", quantization="int8").run())


def test_other_quantizations_are_refused():
    with pytest.raises(InvalidArgument, match="quantization is 'int4', but must be one of int8"):
        registry.load("tiny-random", quantization="int4")


def test_missing_scales_are_named():
    weights = dict(tiny_random.random_weights(tiny_random.CONFIG, 0))
    weights["model.layers.0.mlp.up_proj.weight"] = np.ones((128, 64), np.int8)
    with pytest.raises(
        InvalidArgument, match=r"no weight 'model.layers.0.mlp.up_proj.weight_scale' \(shape \(128,\)\)"
    ):
        Llama.from_weights(tiny_random.CONFIG, weights, "float32")
