"""The two pure functions that run on the device: forward and sample.

Weights, pages and session buffers are arguments, never constants, so an executable serves any weights of the same shape
and can be kept on disk.
"""

from collections.abc import Callable
from typing import Protocol

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from s2l_jax.engine.buckets import ForwardShape, SampleShape, Variant
from s2l_jax.engine.packing import unpack_chunks
from s2l_jax.engine.sample_packing import pack_sampled, unpack_rows
from s2l_jax.engine.sampling import greedy, sample
from s2l_jax.models.batch import RaggedBatch

type KVPages = tuple[Array, ...]
type Leaves = tuple[Array, ...]


class Model(Protocol):
    """What the engine needs of a model; `s2l_jax.models.llama.Llama` says what the methods do."""

    def hidden(
        self, tokens: Int[Array, "tokens"], positions: Int[Array, "tokens"], kv_pages: KVPages, batch: RaggedBatch
    ) -> tuple[Float[Array, "tokens hidden"], KVPages]:
        """Final hidden states of new tokens, and the pages with their KV."""

    def logits(self, hidden: Float[Array, "rows hidden"]) -> Float[Array, "rows vocab"]:
        """Scores of the next token, float32."""


class DeviceCode:
    """Builds the functions of one model. `leaves` are the model's arrays, to be passed to every call."""

    def __init__(self, model: nnx.Module) -> None:
        graph, state = nnx.split(model)
        leaves, tree = jax.tree.flatten(state)
        self.leaves: Leaves = tuple(leaves)
        self._graph = graph
        self._tree = tree

    def forward(self, shape: ForwardShape) -> Callable[..., tuple[KVPages, Array]]:
        """`(leaves, pages, last_hidden, packed chunks) -> (pages, last_hidden)`; pages and last_hidden may be donated.

        Runs the chunks and keeps the hidden state of each one's last token in the session's row.
        """

        def forward(leaves: Leaves, pages: KVPages, last_hidden: Array, packed: Array) -> tuple[KVPages, Array]:
            inputs = unpack_chunks(packed, shape)
            hidden, pages = self._model(leaves).hidden(inputs.tokens, inputs.positions, pages, inputs.batch)
            last_rows = hidden[inputs.batch.cu_q_lens[1:] - 1]
            return pages, last_hidden.at[inputs.session_slots].set(last_rows, mode="drop")

        return forward

    def sample(self, shape: SampleShape) -> Callable[..., Array]:
        """`(leaves, last_hidden, packed samples[, history]) -> tokens`, laid out as `unpack_sampled` reads them."""

        def sample_greedy(leaves: Leaves, last_hidden: Array, packed: Array) -> Array:
            slots, _ = unpack_rows(packed)
            return greedy(self._model(leaves).logits(last_hidden[slots]))

        def sample_full(leaves: Leaves, last_hidden: Array, packed: Array, history: Array | None = None) -> Array:
            slots, rows = unpack_rows(packed)
            return pack_sampled(sample(self._model(leaves).logits(last_hidden[slots]), rows, history))

        return sample_greedy if shape.variant is Variant.GREEDY else sample_full

    def _model(self, leaves: Leaves) -> Model:
        return nnx.merge(self._graph, jax.tree.unflatten(self._tree, leaves))
