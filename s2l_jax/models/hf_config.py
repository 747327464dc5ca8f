"""Model configuration from a Hugging Face `config.json`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models.config import ModelConfig, RopeScaling


@dataclass(frozen=True, slots=True)
class Family:
    """What a family leaves unsaid in its config.json.

    Attributes:
      qkv_bias: whether q, k, v have biases; None reads `attention_bias`.
      output_bias: whether the attention's output has a bias; None reads `attention_bias`.
      qk_norm: heads of q and k are normalised.
      head_dim: if the file has none; None divides the hidden size by the heads.
      window_switch: `sliding_window` counts only if `use_sliding_window` is true.
      windowed: the family knows sliding windows at all.
    """

    qkv_bias: bool | None = None
    output_bias: bool | None = None
    qk_norm: bool = False
    head_dim: int | None = None
    window_switch: bool = False
    windowed: bool = True


FAMILIES = {
    "LlamaForCausalLM": Family(windowed=False),
    "MistralForCausalLM": Family(qkv_bias=False, output_bias=False),
    "Qwen2ForCausalLM": Family(qkv_bias=True, output_bias=False, window_switch=True),
    "Qwen3ForCausalLM": Family(qk_norm=True, head_dim=128, window_switch=True),
}


def config_from_hf(raw: Mapping[str, Any], name: str, eos_token_ids: frozenset[int] = frozenset()) -> ModelConfig:
    """Reads a parsed config.json.

    Args:
      raw: the parsed file.
      name: what users call the model.
      eos_token_ids: end tokens known from elsewhere (generation_config.json), besides the file's own.

    Raises:
      InvalidArgument: the architecture, the RoPE scaling or another feature is not supported, or a field is missing.
    """
    architectures = raw.get("architectures") or []
    family = next((FAMILIES[a] for a in architectures if a in FAMILIES), None)
    if family is None:
        known = ", ".join(FAMILIES)
        raise InvalidArgument(f"model {name!r} is of architecture {architectures}, but supported are {known}")
    _refuse_unsupported(raw, name)
    try:
        heads, hidden = raw["num_attention_heads"], raw["hidden_size"]
        head_dim = raw.get("head_dim") or family.head_dim or hidden // heads
        bias = bool(raw.get("attention_bias", False))
        scaling = _rope_scaling(raw, name)
        max_position = raw["max_position_embeddings"]
        if scaling is not None and scaling.kind == "yarn":
            max_position = max(max_position, int(scaling.factor * scaling.original_max_position))
        return ModelConfig(
            name=name,
            vocab_size=raw["vocab_size"],
            hidden_size=hidden,
            intermediate_size=raw["intermediate_size"],
            num_layers=raw["num_hidden_layers"],
            num_q_heads=heads,
            num_kv_heads=raw.get("num_key_value_heads") or heads,
            head_dim=head_dim,
            max_position=max_position,
            rope_theta=float(_rope_parameters(raw).get("rope_theta") or raw.get("rope_theta") or 10000.0),
            rope_scaling=scaling,
            rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
            tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
            qkv_bias=bias if family.qkv_bias is None else family.qkv_bias,
            output_bias=bias if family.output_bias is None else family.output_bias,
            mlp_bias=bool(raw.get("mlp_bias", False)),
            qk_norm=family.qk_norm,
            sliding_window=_sliding_window(raw, family, name),
            bos_token_id=raw.get("bos_token_id"),
            eos_token_ids=eos_token_ids | token_ids(raw.get("eos_token_id")),
        )
    except KeyError as error:
        raise InvalidArgument(f"model {name!r}: config.json has no {error.args[0]!r}") from error


def token_ids(value: int | list[int] | None) -> frozenset[int]:
    """A token id field: one, several, or none."""
    if value is None:
        return frozenset()
    return frozenset(value) if isinstance(value, list) else frozenset({value})


def _refuse_unsupported(raw: Mapping[str, Any], name: str) -> None:
    if raw.get("quantization_config"):
        method = raw["quantization_config"].get("quant_method")
        raise InvalidArgument(f"model {name!r} is quantised ({method}); only plain float weights are supported")
    activation = raw.get("hidden_act", "silu")
    if activation != "silu":
        raise InvalidArgument(f"model {name!r} has the activation {activation!r}, but only 'silu' is supported")
    rotary = _rope_parameters(raw).get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0))
    if rotary != 1.0:
        raise InvalidArgument(f"model {name!r} rotates only {rotary} of each head, which is not supported")


def _sliding_window(raw: Mapping[str, Any], family: Family, name: str) -> int | None:
    window = raw.get("sliding_window", 4096)
    if not family.windowed or window is None or (family.window_switch and not raw.get("use_sliding_window", False)):
        return None
    layers = raw["num_hidden_layers"]
    kinds = set(raw.get("layer_types") or [])
    if not kinds and family.window_switch:
        full = min(raw.get("max_window_layers", 28), layers)
        kinds = {"full_attention"} if full == layers else {"full_attention", "sliding_attention"}
        kinds = {"sliding_attention"} if full == 0 else kinds
    if kinds == {"full_attention"}:
        return None
    if kinds <= {"sliding_attention"}:
        return window
    raise InvalidArgument(f"model {name!r} mixes layers of {sorted(kinds)}, which is not supported")


def _rope_parameters(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The RoPE section, under its newer or its older name."""
    return raw.get("rope_parameters") or raw.get("rope_scaling") or {}


def _rope_scaling(raw: Mapping[str, Any], name: str) -> RopeScaling | None:
    section = _rope_parameters(raw)
    kind = section.get("rope_type", section.get("type", "default"))
    if kind == "default":
        return None
    max_position = raw["max_position_embeddings"]
    original = section.get("original_max_position_embeddings") or max_position
    if kind == "linear":
        return RopeScaling("linear", float(section["factor"]), original_max_position=original)
    if kind == "llama3":
        return RopeScaling(
            "llama3",
            float(section["factor"]),
            low_freq_factor=float(section["low_freq_factor"]),
            high_freq_factor=float(section["high_freq_factor"]),
            original_max_position=original,
        )
    if kind == "yarn" and section.get("truncate", True):
        factor = float(section.get("factor") or max_position / original)
        return RopeScaling(
            "yarn",
            factor,
            original_max_position=original,
            attention_factor=_yarn_attention_factor(section, factor),
            beta_fast=float(section.get("beta_fast") or 32.0),
            beta_slow=float(section.get("beta_slow") or 1.0),
        )
    raise InvalidArgument(
        f"model {name!r} scales RoPE by {dict(section)}, but supported are linear, llama3 and (truncated) yarn"
    )


def _yarn_attention_factor(section: Mapping[str, Any], factor: float) -> float | None:
    """Given outright, or through the two `mscale` fields; None leaves the usual formula."""
    if section.get("attention_factor") is not None:
        return float(section["attention_factor"])
    mscale, mscale_all = section.get("mscale"), section.get("mscale_all_dim")
    if not (mscale and mscale_all):
        return None
    growth = 0.1 * math.log(factor) if factor > 1 else 0.0
    return (growth * mscale + 1.0) / (growth * mscale_all + 1.0)
