"""The decoder against a dense numpy one, for each member of the family, in one piece and in ragged steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models.batch import RaggedBatch
from s2l_jax.models.config import ModelConfig, RopeScaling
from s2l_jax.models.llama import Llama, init_kv_pages, weight_shapes
from s2l_jax.models.rope import scaled_frequencies
from s2l_jax.models.sharding import PartOfWeights

BASE = ModelConfig(
    name="test",
    vocab_size=97,
    hidden_size=48,
    intermediate_size=80,
    num_layers=2,
    num_q_heads=6,
    num_kv_heads=2,
    head_dim=16,
    max_position=512,
)
FAMILY = {
    "llama2": BASE,
    "smollm2_tied": dataclasses.replace(BASE, tie_word_embeddings=True, rope_theta=1e5),
    "llama3": dataclasses.replace(
        BASE,
        rope_theta=5e5,
        rope_scaling=RopeScaling("llama3", 8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position=64),
    ),
    "mistral_window": dataclasses.replace(BASE, sliding_window=7),
    "qwen2": dataclasses.replace(BASE, qkv_bias=True, tie_word_embeddings=True),
    "qwen3": dataclasses.replace(BASE, qk_norm=True, head_dim=32),
    "all_biases_linear": dataclasses.replace(
        BASE, qkv_bias=True, output_bias=True, mlp_bias=True, rope_scaling=RopeScaling("linear", 4.0)
    ),
    "yarn": dataclasses.replace(BASE, rope_scaling=RopeScaling("yarn", 4.0, original_max_position=128)),
}
TOKENS = np.random.default_rng(1).integers(0, BASE.vocab_size, 41)


def random_weights(config):
    rng = np.random.default_rng(0)
    return {
        name: (rng.standard_normal(shape) * 0.2 + (len(shape) == 1)).astype(np.float32)
        for name, shape in weight_shapes(config).items()
    }


def dense_logits(config, weights, tokens):
    """Logits of all positions, float64, written from the published definition of the architecture."""
    weights = {name: value.astype(np.float64) for name, value in weights.items()}
    count = len(tokens)

    def norm(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + config.rms_norm_eps) * weights[name]

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)

    frequencies, factor = scaled_frequencies(config)
    angles = np.arange(count)[:, None] * np.concatenate([frequencies, frequencies]).astype(np.float64)
    cos, sin = (np.cos(angles) * factor)[:, None], (np.sin(angles) * factor)[:, None]

    def rotate(x):
        half = x.shape[-1] // 2
        return x * cos + np.concatenate([-x[..., half:], x[..., :half]], -1) * sin

    distance = np.arange(count)[:, None] - np.arange(count)
    seen = (distance >= 0) & (distance < (config.sliding_window or count))
    x = weights["model.embed_tokens.weight"][tokens]
    for index in range(config.num_layers):
        layer = f"model.layers.{index}."
        normed = norm(x, layer + "input_layernorm.weight")
        q, k, v = (
            linear(normed, f"{layer}self_attn.{name}_proj").reshape(count, -1, config.head_dim) for name in "qkv"
        )
        if config.qk_norm:
            q, k = norm(q, layer + "self_attn.q_norm.weight"), norm(k, layer + "self_attn.k_norm.weight")
        q, k = rotate(q), rotate(k)
        k, v = (np.repeat(a, config.num_q_heads // config.num_kv_heads, axis=1) for a in (k, v))
        scores = np.where(seen, np.einsum("qhd,khd->hqk", q, k) / np.sqrt(config.head_dim), -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        attended = np.einsum("hqk,khd->qhd", scores / scores.sum(-1, keepdims=True), v)
        x = x + linear(attended.reshape(count, -1), layer + "self_attn.o_proj")
        normed = norm(x, layer + "post_attention_layernorm.weight")
        gate = linear(normed, layer + "mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(normed, layer + "mlp.up_proj"), layer + "mlp.down_proj")
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    return norm(x, "model.norm.weight") @ weights[head].T


@nnx.jit
def step(model, tokens, positions, kv_pages, batch):
    hidden, kv_pages = model.hidden(tokens, positions, kv_pages, batch)
    return model.logits(hidden), kv_pages


def run_in_chunks(model, chunks, block_size=8, width=64, step=step, kv_pages=None):
    """Runs TOKENS through the model, one chunk a step, as the first of two sequences of a padded batch."""
    table = np.random.default_rng(2).permutation(16).astype(np.int32)
    if kv_pages is None:
        kv_pages = init_kv_pages(model.config, 16, block_size, model.embedding[...].dtype)
    rows, start = [], 0
    for count in chunks:
        positions = np.arange(start, start + count, dtype=np.int32)
        slots = np.full(width, 16 * block_size, np.int32)
        slots[:count] = table[positions // block_size] * block_size + positions % block_size
        batch = RaggedBatch(
            slots=jnp.asarray(slots),
            block_tables=jnp.asarray(np.stack([table, np.zeros_like(table)])),
            cu_q_lens=jnp.asarray([0, count, count], jnp.int32),
            kv_lens=jnp.asarray([start + count, 0], jnp.int32),
            num_decodes=jnp.int32(count == 1),
            num_seqs=jnp.int32(1),
        )
        padding = (0, width - count)
        tokens = jnp.asarray(np.pad(TOKENS[start : start + count], padding), jnp.int32)
        logits, kv_pages = step(model, tokens, jnp.asarray(np.pad(positions, padding)), kv_pages, batch)
        rows.append(np.asarray(logits[:count]))
        start += count
    return np.concatenate(rows)


@pytest.mark.parametrize("name", FAMILY)
def test_family_equals_dense(name):
    config = FAMILY[name]
    weights = random_weights(config)
    model = Llama.from_weights(config, weights, jnp.float32)
    expected = dense_logits(config, weights, TOKENS)
    scale = np.abs(expected).max()
    for chunks in [(41,), (1, 7, 8, 20, 1, 1, 3)]:
        np.testing.assert_allclose(run_in_chunks(model, chunks) / scale, expected / scale, atol=2e-5)


@pytest.mark.parametrize("name", ["llama2", "smollm2_tied", "qwen3", "all_biases_linear"])
def test_parts_of_a_tensor_parallel_decoder_equal_dense(name):
    parts = 2
    config = FAMILY[name]  # whose vocabulary is odd
    weights = random_weights(config)
    models = [Llama(config.part(parts), PartOfWeights(weights, i, parts), jnp.float32, "model") for i in range(parts)]
    graph = nnx.split(models[0])[0]
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(nnx.split(model)[1] for model in models))

    def on_all_parts(model, tokens, positions, kv_pages, batch):
        def on_one(state, kv_pages):
            return step(nnx.merge(graph, state), tokens, positions, kv_pages, batch)

        # A mapped axis is to collectives what an axis of a mesh is, and needs no devices.
        logits, kv_pages = jax.vmap(on_one, axis_name="model")(states, kv_pages)
        np.testing.assert_array_equal(logits[0], logits[1])
        return logits[0], kv_pages

    kv_pages = jax.tree.map(
        lambda pages: jnp.stack([pages] * parts), init_kv_pages(config.part(parts), 16, 8, jnp.float32)
    )
    expected = dense_logits(config, weights, TOKENS)
    logits = run_in_chunks(models[0], (30, 1, 10), step=on_all_parts, kv_pages=kv_pages)
    np.testing.assert_allclose(logits / np.abs(expected).max(), expected / np.abs(expected).max(), atol=2e-5)


def test_a_model_is_split_evenly_or_not_at_all():
    assert FAMILY["llama2"].num_kv_heads == 2
    with pytest.raises(InvalidArgument, match="num_kv_heads of model 'test' is 2, not a multiple of 3 devices"):
        FAMILY["llama2"].part(3)


def test_bfloat16_is_close():
    weights = random_weights(BASE)
    expected = dense_logits(BASE, weights, TOKENS)
    model = Llama.from_weights(BASE, weights, jnp.bfloat16)
    logits = run_in_chunks(model, (40, 1))
    assert logits.dtype == np.float32
    assert np.corrcoef(logits.ravel(), expected.ravel())[0, 1] > 0.999


def test_missing_and_misshapen_weights_are_named():
    weights = random_weights(BASE)
    del weights["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(InvalidArgument, match=r"no weight 'model.layers.1.mlp.up_proj.weight' \(shape \(80, 48\)\)"):
        Llama.from_weights(BASE, weights, jnp.float32)
    weights = random_weights(BASE) | {"model.norm.weight": np.ones(3, np.float32)}
    with pytest.raises(InvalidArgument, match=r"'model.norm.weight' of model 'test' is \(3,\).* needs \(48,\)"):
        Llama.from_weights(BASE, weights, jnp.float32)


def test_unknown_rope_scaling_is_refused():
    config = dataclasses.replace(BASE, rope_scaling=RopeScaling("dynamic", 2.0))
    with pytest.raises(InvalidArgument, match="known are linear, llama3 and yarn"):
        scaled_frequencies(config)


def test_jit_takes_the_model_as_a_pytree():
    model = Llama.from_weights(BASE, random_weights(BASE), jnp.float32)
    graph, state = nnx.split(model)
    logits = jax.jit(lambda state, hidden: nnx.merge(graph, state).logits(hidden))(state, jnp.ones((1, 48)))
    np.testing.assert_allclose(logits, model.logits(jnp.ones((1, 48))), atol=1e-4)
