"""Models in Hugging Face directories."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models.chat import ChatTemplate
from s2l_jax.models.config import ModelConfig
from s2l_jax.models.hf_config import config_from_hf, token_ids
from s2l_jax.models.hf_tokenizer import HFTokenizer
from s2l_jax.models.safetensors_file import open_weights


@dataclass(frozen=True, slots=True)
class HFModel:
    """What a directory holds; the weights are read when they are asked for."""

    config: ModelConfig
    weights: Mapping[str, np.ndarray]
    tokenizer: HFTokenizer
    chat_template: ChatTemplate | None


def load_directory(
    directory: Path, name: str | None = None, weights: Mapping[str, np.ndarray] | None = None
) -> HFModel:
    """Reads `config.json`, `generation_config.json`, `tokenizer.json`, `tokenizer_config.json`, the chat template and
    the headers of `*.safetensors`.

    Args:
      directory: as a model is published.
      name: what users call the model; the directory's name if None.
      weights: that belong to it; those in its `*.safetensors` if None.

    Raises:
      InvalidArgument: a file is missing or malformed, or the model is of a kind that is not supported.
    """
    if not (directory / "config.json").is_file():
        raise InvalidArgument(f"{directory} is no model directory: it has no config.json")
    settings = _read_json(directory / "tokenizer_config.json")
    generation = _read_json(directory / "generation_config.json")
    spec = _read_json(directory / "tokenizer.json")
    if not spec:
        raise InvalidArgument(f"{directory} has no tokenizer.json")
    eos_token_ids = token_ids(generation.get("eos_token_id")) | _added_token(spec, _spelling(settings, "eos_token"))
    config = load_config(directory, name, eos_token_ids)
    if settings.get("bos_token", "") is None:  # the tokenizer knows better than the model's configuration
        config = replace(config, bos_token_id=None)
    try:
        tokenizer = HFTokenizer(
            spec,
            bos_token_id=config.bos_token_id,
            eos_token_ids=config.eos_token_ids,
            adds_bos=settings.get("add_bos_token"),
        )
    except InvalidArgument as error:
        raise InvalidArgument(f"{directory}: {error}") from error
    found = open_weights(directory) if weights is None else weights
    return HFModel(config, found, tokenizer, _chat_template(directory, settings))


def load_config(directory: Path, name: str | None = None, eos_token_ids: frozenset[int] = frozenset()) -> ModelConfig:
    """Reads `config.json` alone; arguments and errors are those of `load_directory` and `config_from_hf`."""
    return config_from_hf(_read_json(directory / "config.json"), name or directory.resolve().name, eos_token_ids)


def _chat_template(directory: Path, settings: Mapping[str, Any]) -> ChatTemplate | None:
    """A file of its own, or a field of tokenizer_config.json; of several templates the one named `default`."""
    path = directory / "chat_template.jinja"
    source = path.read_text(encoding="utf-8") if path.is_file() else settings.get("chat_template")
    if isinstance(source, list):
        source = next((entry["template"] for entry in source if entry["name"] == "default"), None)
    if not source:
        return None
    return ChatTemplate(source, bos_token=_spelling(settings, "bos_token"), eos_token=_spelling(settings, "eos_token"))


def _spelling(settings: Mapping[str, Any], field: str) -> str:
    """A token in tokenizer_config.json is a string, an object with `content`, or not there."""
    value = settings.get(field) or ""
    return value["content"] if isinstance(value, dict) else value


def _added_token(spec: Mapping[str, Any], content: str) -> frozenset[int]:
    return frozenset(token["id"] for token in spec.get("added_tokens") or [] if token["content"] == content)


def _read_json(path: Path) -> dict[str, Any]:
    """The parsed file, or nothing if it is not there."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{path} cannot be read: {error}") from error
