"""What a model is, in figures, and whether it works here."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from s2l_jax.core.errors import InvalidArgument, S2LError
from s2l_jax.models.llama import Llama, weight_shapes
from s2l_jax.models.paged_driver import PagedDriver
from s2l_jax.models.quantization import is_quantized, scale_name
from s2l_jax.models.registry import DTYPES, LoadedModel, load

PROMPT = "The quick brown fox jumps over the lazy dog. Once upon a time"
OUTPUT_TOKENS = 16


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check: what was looked at, how long it took, and what was found or what is wrong."""

    check: str
    passed: bool
    seconds: float
    detail: str


def describe(model: LoadedModel) -> dict[str, Any]:
    """Shape, size, tokenizer and origin of a model, as JSON has them."""
    config, tokenizer = model.config, model.tokenizer
    shapes = weight_shapes(config)
    parameters = sum(map(math.prod, shapes.values()))
    item_bytes = DTYPES[model.dtype].itemsize
    kv_bytes = 2 * config.num_layers * config.num_kv_heads * config.head_dim * item_bytes
    scaling = config.rope_scaling
    return {
        "name": config.name,
        "source": model.provenance.source,
        "path": None if model.provenance.path is None else str(model.provenance.path),
        "licence": model.provenance.licence,
        "dtype": model.dtype,
        "quantization": model.quantization,
        "parameters": parameters,
        "weights_bytes": sum(_device_bytes(model, name, shape) for name, shape in shapes.items()),
        "kv_bytes_per_token": kv_bytes,
        "max_context_tokens": config.max_position,
        "kv_bytes_of_max_context": kv_bytes * config.max_position,
        "layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "mlp_size": config.intermediate_size,
        "query_heads": config.num_q_heads,
        "kv_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "sliding_window": config.sliding_window,
        "rope_scaling": None if scaling is None else f"{scaling.kind} x{scaling.factor:g}",
        "vocabulary": config.vocab_size,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_ids": sorted(tokenizer.eos_token_ids),
        "chat_template": model.chat_template is not None,
        "retokenizes": "whole text" if tokenizer.restart_rule is None else "tail only",
    }


def _device_bytes(model: LoadedModel, name: str, shape: tuple[int, ...]) -> int:
    """What a weight takes on the device, with its scales if it has any."""
    if model.quantization is not None and is_quantized(name):
        return math.prod(shape) + shape[0] * np.dtype(np.float32).itemsize
    return math.prod(shape) * DTYPES[model.dtype].itemsize


class ModelCheck:
    """Loads a model and tries it out, from its files to a greedy text.

    Args:
      name_or_dir: as `registry.load` takes it, and so are the others.
      dtype: likewise.
      quantization: likewise.
      cache_dir: likewise.
    """

    def __init__(
        self,
        name_or_dir: str,
        *,
        dtype: str | None = None,
        quantization: str | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        self._load_model = partial(load, name_or_dir, dtype=dtype, quantization=quantization, cache_dir=cache_dir)
        self._model: LoadedModel
        self._built: Llama

    def run(self) -> Iterator[CheckResult]:
        """Each check as it is done; ends behind the first that fails."""
        steps: tuple[tuple[str, Callable[[], str]], ...] = (
            ("load", self._load),
            ("shapes", self._build),
            ("values", self._values),
            ("tokenizer", self._tokenizer),
            ("greedy text", self._generate),
        )
        for label, step in steps:
            begin = time.perf_counter()
            try:
                detail, passed = step(), True
            except S2LError as error:
                detail, passed = str(error), False
            yield CheckResult(label, passed, round(time.perf_counter() - begin, 3), detail)
            if not passed:
                return

    def _load(self) -> str:
        self._model = self._load_model()
        return f"{self._model.provenance.source}, {self._model.dtype}"

    def _build(self) -> str:
        self._built = self._model.build()
        return f"{len(weight_shapes(self._model.config))} tensors have the shapes of the configuration"

    def _values(self) -> str:
        weights = self._model.weights
        for name in weight_shapes(self._model.config):
            for each in filter(weights.__contains__, (name, scale_name(name))):
                if not np.isfinite(weights[each].astype(np.float32)).all():
                    raise InvalidArgument(f"weight {each!r} holds NaN or infinity")
        return "all weights are finite"

    def _tokenizer(self) -> str:
        tokenizer, vocabulary = self._model.tokenizer, self._model.config.vocab_size
        ids = tokenizer.encode(PROMPT)
        text = tokenizer.decode(ids)
        if text != PROMPT:
            raise InvalidArgument(f"{PROMPT!r} comes back as {text!r}")
        if ids.max() >= vocabulary:
            raise InvalidArgument(f"token {ids.max()} lies outside the model's vocabulary of {vocabulary}")
        return f"{len(ids)} tokens for {len(PROMPT)} characters, and back"

    def _generate(self) -> str:
        tokenizer = self._model.tokenizer
        prompt = tokenizer.encode(PROMPT, add_bos=tokenizer.adds_bos).tolist()
        driver = PagedDriver(self._built, len(prompt) + OUTPUT_TOKENS, DTYPES[self._model.dtype])
        tokens, logits = driver.greedy(prompt, OUTPUT_TOKENS)
        if not np.isfinite(logits).all():
            raise InvalidArgument("logits hold NaN or infinity")
        return repr(tokenizer.decode(tokens))
