"""GGUF files: converted once to a Hugging Face directory, float32, which then loads in a second."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file

from s2l_jax.core.errors import InvalidArgument

CONVERTER_VERSION = 1  # part of the name of a converted directory: raise it when the result changes
_CONTROL, _USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type
_END_TOKENS = frozenset({"<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "</s>"})
_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def converted_directory(source: Path, cache_dir: Path) -> Path:
    """The Hugging Face directory of a GGUF file, converted now if it is not in the cache.

    Several processes may do this at once: each converts into a directory of its own, the first one to finish gives its
    own the final name, and the others take that.

    Args:
      source: a Llama-family GGUF with a tokenizer of the kind `smollm`, any quantisation.
      cache_dir: where converted directories are kept; made if missing. Needs four bytes a weight.

    Raises:
      InvalidArgument: the file is not a GGUF, or is of a kind that is not supported.
    """
    stat = source.stat()
    target = cache_dir / f"{source.stem}-{stat.st_size:x}-{stat.st_mtime_ns:x}-v{CONVERTER_VERSION}"
    if target.is_dir():
        return target
    cache_dir.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=cache_dir))
    try:
        convert(source, work)
        try:
            work.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def convert(source: Path, directory: Path) -> None:
    """Writes config, tokenizer, chat template and float32 weights of a GGUF into an existing, empty directory.

    Raises:
      InvalidArgument: the file is not a GGUF, or is of a kind that is not supported.
    """
    try:
        reader = gguf.GGUFReader(source)
    except ValueError as error:
        raise InvalidArgument(f"{source} is not a GGUF file: {error}") from error

    def field(name: str, default: Any = None) -> Any:
        found = reader.get_field(name)
        return default if found is None else found.contents()

    if field("general.architecture") != "llama":
        raise InvalidArgument(f"{source} is of architecture {field('general.architecture')!r}, not 'llama'")
    tokenizer = _tokenizer(field, source)
    names = {tensor.name for tensor in reader.tensors}
    files = {
        "config.json": _config(field, tied="output.weight" not in names),
        "generation_config.json": {"eos_token_id": _eos_token_ids(field)},
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": _tokenizer_config(field),
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    heads = {"attn_q": field("llama.attention.head_count"), "attn_k": field("llama.attention.head_count_kv")}
    _write_weights([(_hf_name(tensor.name), tensor) for tensor in reader.tensors], heads, directory)
    for path in directory.iterdir():  # or the rename that follows may outlive the data in a power failure
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _write_weights(tensors: Sequence[tuple[str, Any]], heads: Mapping[str, int], directory: Path) -> None:
    """Writes weights in shards, one for each layer, so that no more than one is held."""
    shards: dict[str, list[tuple[str, Any]]] = {}
    for name, tensor in tensors:
        shards.setdefault(name.split(".")[2] if name.startswith("model.layers.") else "ends", []).append((name, tensor))
    weight_map: dict[str, str] = {}
    for index, members in enumerate(shards.values(), 1):
        file = f"model-{index:05}-of-{len(shards):05}.safetensors"
        save_file({name: _values(tensor, heads) for name, tensor in members}, directory / file)
        weight_map |= {name: file for name, _ in members}
    index_text = json.dumps({"metadata": {}, "weight_map": weight_map}, indent=1)
    (directory / "model.safetensors.index.json").write_text(index_text, encoding="utf-8")


def _hf_name(name: str) -> str:
    """The name that Hugging Face has for a tensor."""
    if name in _TENSORS:
        return _TENSORS[name]
    _, layer, kind, leaf = name.split(".") if name.count(".") == 3 else ("", "", "", "")
    if kind not in _LAYER_TENSORS:
        raise InvalidArgument(f"tensor {name!r} is not one of a plain Llama model")
    return f"model.layers.{layer}.{_LAYER_TENSORS[kind]}.{leaf}"


def _values(tensor: Any, heads: Mapping[str, int]) -> np.ndarray:
    """Values as Hugging Face has them, float32."""
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
    kind = tensor.name.split(".")[-2]
    return np.ascontiguousarray(unpermute(values, heads[kind]) if kind in heads else values)


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a q or k projection `[out, in]` for half-split RoPE; the file has them for interleaved RoPE."""
    out = weight.shape[0]
    return weight.reshape(heads, out // heads // 2, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def _config(field: Callable[..., Any], *, tied: bool) -> dict[str, Any]:
    if field("llama.rope.scaling.type", "none") != "none":
        raise InvalidArgument(f"RoPE scaling {field('llama.rope.scaling.type')!r} in a GGUF file is not supported")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": field("llama.vocab_size"),
        "hidden_size": field("llama.embedding_length"),
        "intermediate_size": field("llama.feed_forward_length"),
        "num_hidden_layers": field("llama.block_count"),
        "num_attention_heads": field("llama.attention.head_count"),
        "num_key_value_heads": field("llama.attention.head_count_kv"),
        "max_position_embeddings": field("llama.context_length"),
        "rope_theta": field("llama.rope.freq_base", 10000.0),
        "rms_norm_eps": float(f"{field('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "tie_word_embeddings": tied,
        "bos_token_id": field("tokenizer.ggml.bos_token_id"),
        "eos_token_id": field("tokenizer.ggml.eos_token_id"),
        "torch_dtype": "float32",
    }


def _eos_token_ids(field: Callable[..., Any]) -> list[int]:
    """The token declared as the end, and those whose spelling says that they are one."""
    pairs = zip(field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type"), strict=True)
    spelled = {i for i, (token, kind) in enumerate(pairs) if kind == _CONTROL and token in _END_TOKENS}
    return sorted(spelled | {field("tokenizer.ggml.eos_token_id")})


def _tokenizer(field: Callable[..., Any], source: Path) -> dict[str, Any]:
    """A tokenizer.json of the vocabulary and merges."""
    kind = (field("tokenizer.ggml.model"), field("tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise InvalidArgument(f"{source} has a tokenizer of the kind {kind}; only ('gpt2', 'smollm') is supported")
    tokens, types = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    added = [
        {
            "id": i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == _CONTROL,
        }
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in {_CONTROL, _USER_DEFINED}
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in field("tokenizer.ggml.merges")],
        },
    }


def _tokenizer_config(field: Callable[..., Any]) -> dict[str, Any]:
    tokens = field("tokenizer.ggml.tokens")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": bool(field("tokenizer.ggml.add_bos_token", False)),
        "bos_token": tokens[field("tokenizer.ggml.bos_token_id")],
        "eos_token": tokens[field("tokenizer.ggml.eos_token_id")],
        "chat_template": field("tokenizer.chat_template"),
        "model_max_length": field("llama.context_length"),
        "clean_up_tokenization_spaces": False,
    }
