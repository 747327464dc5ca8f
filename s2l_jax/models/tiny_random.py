"""A tiny model of seeded random weights: it knows nothing, and behaves like a model in every other way."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from s2l_jax.models.config import ModelConfig
from s2l_jax.models.tokenizer import ByteTokenizer

CONFIG = ModelConfig(
    name="tiny-random",
    vocab_size=ByteTokenizer.vocab_size,
    hidden_size=64,
    intermediate_size=128,
    num_layers=2,
    num_q_heads=4,
    num_kv_heads=2,
    head_dim=16,
    max_position=4096,
    bos_token_id=ByteTokenizer.bos_token_id,
    eos_token_ids=ByteTokenizer.eos_token_ids,
)
_ATTENTION_GAIN = 1.5  # scores with a deviation of about two: which positions are looked at depends on what they hold
_LOGIT_GAIN = 4.0


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """A config.json of a plain Llama model, which this one and others of its kind are."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_q_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": sorted(config.eos_token_ids),
    }


def random_weights(config: ModelConfig, seed: int) -> Mapping[str, np.ndarray]:
    """Weights under Hugging Face names, float32; the same for the same seed everywhere."""
    rng = np.random.default_rng(seed)

    def normal(rows: int, columns: int, gain: float = 1.0) -> np.ndarray:
        return rng.standard_normal((rows, columns), np.float32) * np.float32(gain / columns**0.5)

    hidden, inner = config.hidden_size, config.intermediate_size
    q_dim, kv_dim = config.num_q_heads * config.head_dim, config.num_kv_heads * config.head_dim
    ones = np.ones(hidden, np.float32)
    weights = {
        "model.embed_tokens.weight": normal(config.vocab_size, hidden, hidden**0.5),
        "model.norm.weight": ones,
        "lm_head.weight": normal(config.vocab_size, hidden, _LOGIT_GAIN),
    }
    for layer in range(config.num_layers):
        weights |= {
            f"model.layers.{layer}.{name}.weight": values
            for name, values in {
                "input_layernorm": ones,
                "self_attn.q_proj": normal(q_dim, hidden, _ATTENTION_GAIN),
                "self_attn.k_proj": normal(kv_dim, hidden, _ATTENTION_GAIN),
                "self_attn.v_proj": normal(kv_dim, hidden, 2.0),
                "self_attn.o_proj": normal(hidden, q_dim, 2.0),
                "post_attention_layernorm": ones,
                "mlp.gate_proj": normal(inner, hidden, 2.0),
                "mlp.up_proj": normal(inner, hidden),
                "mlp.down_proj": normal(hidden, inner, 2.0),
            }.items()
        }
    return weights
