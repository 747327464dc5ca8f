"""Decoder of the Llama family: Llama 2 and 3, SmolLM2, Mistral, Qwen 2, 2.5 and 3.

Layers are unrolled and each has its own weights and its own KV array: a scan over stacked layers copies per-layer
slices on CPU and GPU, and a donated array per layer is updated in place.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from kernels_pallas.attention import kv_pages_shape, paged_attention, write_kv
from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models.batch import RaggedBatch
from s2l_jax.models.config import ModelConfig
from s2l_jax.models.linear import Linear, matmul
from s2l_jax.models.placing import SCALE, join
from s2l_jax.models.rope import apply_rope, rope_tables

type KVPages = tuple[Array, ...]
type RopeTables = tuple[Float[Array, "tokens half"], Float[Array, "tokens half"]]


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names (Hugging Face's) and shapes of all weights of a model; projections are `[out, in]`."""
    hidden, inner = config.hidden_size, config.intermediate_size
    q_dim, kv_dim = config.num_q_heads * config.head_dim, config.num_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab_size, hidden),
        "model.norm.weight": (hidden,),
    }
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    for index in range(config.num_layers):
        layer = f"model.layers.{index}."
        shapes[layer + "input_layernorm.weight"] = (hidden,)
        shapes[layer + "post_attention_layernorm.weight"] = (hidden,)
        projections = [
            ("self_attn.q_proj", q_dim, hidden, config.qkv_bias),
            ("self_attn.k_proj", kv_dim, hidden, config.qkv_bias),
            ("self_attn.v_proj", kv_dim, hidden, config.qkv_bias),
            ("self_attn.o_proj", hidden, q_dim, config.output_bias),
            ("mlp.gate_proj", inner, hidden, config.mlp_bias),
            ("mlp.up_proj", inner, hidden, config.mlp_bias),
            ("mlp.down_proj", hidden, inner, config.mlp_bias),
        ]
        for name, rows, columns, has_bias in projections:
            shapes[f"{layer}{name}.weight"] = (rows, columns)
            if has_bias:
                shapes[f"{layer}{name}.bias"] = (rows,)
        if config.qk_norm:
            shapes[layer + "self_attn.q_norm.weight"] = (config.head_dim,)
            shapes[layer + "self_attn.k_norm.weight"] = (config.head_dim,)
    return shapes


def init_kv_pages(config: ModelConfig, num_blocks: int, block_size: int, dtype: DTypeLike) -> KVPages:
    """Zeroed KV pages, one array a layer."""
    shape = kv_pages_shape(num_blocks, block_size, config.num_kv_heads, config.head_dim)
    return tuple(jnp.zeros(shape, dtype) for _ in range(config.num_layers))


class RMSNorm(nnx.Module):
    """Root mean square normalisation over the last axis, computed in float32."""

    def __init__(self, weight: Array, eps: float) -> None:
        self.weight = nnx.Param(weight)
        self.eps = eps

    def __call__(self, x: Float[Array, "*rows dim"]) -> Float[Array, "*rows dim"]:
        """Scales each row to unit root mean square, then by the weight."""
        wide = x.astype(jnp.float32)
        scale = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        return (wide * scale).astype(x.dtype) * self.weight[...]


class Attention(nnx.Module):
    """Grouped-query attention over paged KV; q, k and v come from one fused projection."""

    def __init__(self, config: ModelConfig, weights: "_Weights") -> None:
        self.config = config
        self.qkv = weights.linear("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        self.output = weights.linear("self_attn.o_proj", is_split=True)
        self.q_norm = weights.norm("self_attn.q_norm") if config.qk_norm else None
        self.k_norm = weights.norm("self_attn.k_norm") if config.qk_norm else None

    def __call__(
        self, x: Float[Array, "tokens hidden"], rope: RopeTables, kv_pages: Array, batch: RaggedBatch
    ) -> tuple[Float[Array, "tokens hidden"], Array]:
        """Writes the tokens' keys and values, then attends; returns output and pages."""
        config = self.config
        tokens, heads = x.shape[0], config.num_q_heads + 2 * config.num_kv_heads
        qkv = self.qkv(x).reshape(tokens, heads, config.head_dim)
        q, k, v = jnp.split(qkv, (config.num_q_heads, config.num_q_heads + config.num_kv_heads), axis=1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = apply_rope(q, *rope), apply_rope(k, *rope)
        kv_pages = write_kv(kv_pages, k, v, batch.slots, max_seqs=batch.block_tables.shape[0])
        out = paged_attention(
            q,
            kv_pages,
            batch.block_tables,
            batch.cu_q_lens,
            batch.kv_lens,
            num_decodes=batch.num_decodes,
            num_seqs=batch.num_seqs,
            scale=config.head_dim**-0.5,
            sliding_window=config.sliding_window,
        )
        return self.output(out.reshape(tokens, -1)), kv_pages


class MLP(nnx.Module):
    """SwiGLU feed-forward network; gate and up come from one fused projection."""

    def __init__(self, weights: "_Weights") -> None:
        self.gate_up = weights.linear("mlp.gate_proj", "mlp.up_proj")
        self.down = weights.linear("mlp.down_proj", is_split=True)

    def __call__(self, x: Float[Array, "tokens hidden"]) -> Float[Array, "tokens hidden"]:
        """Returns `down(silu(gate(x)) * up(x))`."""
        gate, up = jnp.split(self.gate_up(x), 2, axis=-1)
        return self.down(jax.nn.silu(gate) * up)


class DecoderLayer(nnx.Module):
    """Attention and feed-forward network, each behind a norm and beside a residual."""

    def __init__(self, config: ModelConfig, weights: "_Weights") -> None:
        self.input_norm = weights.norm("input_layernorm")
        self.attention = Attention(config, weights)
        self.post_attention_norm = weights.norm("post_attention_layernorm")
        self.mlp = MLP(weights)

    def __call__(
        self, x: Float[Array, "tokens hidden"], rope: RopeTables, kv_pages: Array, batch: RaggedBatch
    ) -> tuple[Float[Array, "tokens hidden"], Array]:
        """Returns the new residual stream and the layer's pages."""
        attended, kv_pages = self.attention(self.input_norm(x), rope, kv_pages, batch)
        x = x + attended
        return x + self.mlp(self.post_attention_norm(x)), kv_pages


class Llama(nnx.Module):
    """A whole decoder. Pure: pages go in and come out, donate them in the jit that calls `hidden`.

    With `axis`, the name of a mesh axis, it is one device's part of a tensor-parallel decoder, for use inside
    `jax.shard_map`: `config` is that of the part (`ModelConfig.part`), so are the weights and pages
    (`s2l_jax.models.sharding`). A layer sums twice over the devices.
    """

    def __init__(
        self, config: ModelConfig, weights: Mapping[str, Any], dtype: DTypeLike, axis: str | None = None
    ) -> None:
        model = _Weights(weights, "model.", config.rms_norm_eps, dtype, axis)
        self.config = config
        self.axis = axis
        self.embedding = nnx.Param(model.array("embed_tokens.weight"))
        self.layers = nnx.List(
            [DecoderLayer(config, model.under(f"layers.{index}.")) for index in range(config.num_layers)]
        )
        self.norm = model.norm("norm")
        tied = config.tie_word_embeddings
        self.lm_head = None if tied else nnx.Param(jnp.asarray(weights["lm_head.weight"], dtype))

    @classmethod
    def from_weights(cls, config: ModelConfig, weights: Mapping[str, np.ndarray], dtype: DTypeLike) -> Self:
        """Builds the model on the default device.

        Args:
          config: shape and numerics.
          weights: arrays under the names and with the shapes that `weight_shapes` lists; others are ignored.
          dtype: of weights and activations.

        Raises:
          InvalidArgument: a weight is missing or has the wrong shape; the message names it.
        """
        check_weights(config, weights)
        return cls(config, weights, dtype)

    def embed(
        self, tokens: Int[Array, "tokens"], positions: Int[Array, "tokens"]
    ) -> tuple[Float[Array, "tokens hidden"], RopeTables]:
        """What the first layer reads: embeddings of the tokens, and rotary tables of their positions."""
        rope = rope_tables(self.config, positions)
        if self.axis is None:
            return self.embedding[...][tokens], rope
        mine = tokens - jax.lax.axis_index(self.axis) * len(self.embedding[...])
        rows = self.embedding[...].at[mine].get(mode="fill", fill_value=0, wrap_negative_indices=False)
        return jax.lax.psum(rows, self.axis), rope

    def hidden(
        self, tokens: Int[Array, "tokens"], positions: Int[Array, "tokens"], kv_pages: KVPages, batch: RaggedBatch
    ) -> tuple[Float[Array, "tokens hidden"], KVPages]:
        """Runs new tokens through all layers.

        Args:
          tokens: token ids; padding rows hold any valid id.
          positions: position of each token in its sequence.
          kv_pages: pages of all layers, shaped as `init_kv_pages` makes them.
          batch: how the rows make up sequences.

        Returns:
          Hidden states behind the final norm, and the pages with the new tokens in them.
        """
        x, rope = self.embed(tokens, positions)
        written = []
        for layer, old_pages in zip(self.layers, kv_pages, strict=True):
            x, new_pages = _run_layer(*nnx.split(layer), x, rope, old_pages, batch)
            written.append(new_pages)
        return self.norm(x), tuple(written)

    def logits(self, hidden: Float[Array, "rows hidden"]) -> Float[Array, "rows vocab"]:
        """Scores of the next token, float32, from hidden states that `hidden` gave."""
        head = self.embedding if self.lm_head is None else self.lm_head
        scores = matmul(hidden, head[...])
        if self.axis is None:
            return scores
        return jax.lax.all_gather(scores, self.axis, axis=1, tiled=True)[:, : self.config.vocab_size]


@partial(jax.jit, static_argnums=0)
def _run_layer(
    graph: nnx.GraphDef[DecoderLayer], state: nnx.State, x: Array, rope: RopeTables, kv_pages: Array, batch: RaggedBatch
) -> tuple[Array, Array]:
    """Runs one layer. All have the same graph, so that JAX traces the first only: seconds less for each executable."""
    return nnx.merge(graph, state)(x, rope, kv_pages, batch)


class _Weights:
    """Named weights under a prefix, moved to the device as the modules ask for them."""

    def __init__(self, weights: Mapping[str, Any], prefix: str, eps: float, dtype: DTypeLike, axis: str | None) -> None:
        self._weights, self._prefix, self._eps, self._dtype, self._axis = weights, prefix, eps, dtype, axis

    def under(self, prefix: str) -> "_Weights":
        return _Weights(self._weights, self._prefix + prefix, self._eps, self._dtype, self._axis)

    def array(self, *names: str, dtype: DTypeLike | None = None) -> Array:
        """Named arrays joined along their first axis; `dtype` is the model's if None."""
        return join([jnp.asarray(self._weights[self._prefix + name], dtype or self._dtype) for name in names])

    def linear(self, *names: str, is_split: bool = False) -> Linear:
        """One projection made of those named, their outputs side by side.

        `is_split`: its inputs are what the devices of a tensor-parallel decoder share among them.
        """
        is_int8 = f"{self._prefix}{names[0]}.{SCALE}" in self._weights
        weight = self.array(*(f"{name}.weight" for name in names), dtype=jnp.int8 if is_int8 else None)
        scale = self.array(*(f"{name}.{SCALE}" for name in names), dtype=jnp.float32) if is_int8 else None
        has_bias = f"{self._prefix}{names[0]}.bias" in self._weights
        bias = self.array(*(f"{name}.bias" for name in names)) if has_bias else None
        return Linear(weight, bias, scale, self._axis if is_split else None)

    def norm(self, name: str) -> RMSNorm:
        return RMSNorm(self.array(f"{name}.weight"), self._eps)


def check_weights(config: ModelConfig, weights: Mapping[str, Any]) -> None:
    """Raises InvalidArgument if a weight is missing or has the wrong shape; the message names it.

    Args:
      config: what the weights must fit.
      weights: arrays, or anything with `shape` and `dtype`, under their names.
    """
    for name, shape in weight_shapes(config).items():
        _check_shape(config, weights, name, shape)
        if weights[name].dtype == np.int8:
            _check_shape(config, weights, name.removesuffix("weight") + SCALE, shape[:1])


def _check_shape(config: ModelConfig, weights: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> None:
    if name not in weights:
        raise InvalidArgument(f"model {config.name!r} has no weight {name!r} (shape {shape})")
    if tuple(weights[name].shape) != shape:
        raise InvalidArgument(
            f"weight {name!r} of model {config.name!r} is {tuple(weights[name].shape)}, "
            f"but its configuration needs {shape}"
        )
