"""The pure functions that run on the device.

Weights, pages and session buffers are arguments, never constants, so an executable serves any weights of the same shape
and can be kept on disk. A forward step is three functions: `embed`, `layers` for a few layers, called once for each
group of as many, and `finish`. All groups share one executable, since nothing but their weights tells them apart.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from kernels_pallas.attention import gather_pages, scatter_pages
from s2l_jax.core.errors import InvalidArgument
from s2l_jax.engine.buckets import ForwardShape, SampleShape, Variant
from s2l_jax.engine.packing import resolve, unpack_chunks
from s2l_jax.engine.placement import WHOLE, on_all_devices
from s2l_jax.engine.sample_packing import pack_sampled, unpack_rows
from s2l_jax.engine.sampling import greedy, sample
from s2l_jax.models.batch import RaggedBatch
from s2l_jax.models.sharding import CONTENTS, PAGES, weight_specs

type Leaves = tuple[Array, ...]
type Pages = tuple[Array, ...]
type RopeTables = tuple[Array, Array]
type Contents = tuple[Array, ...]
"""Pages outside the pool, in pieces of `[blocks, layers, kv_heads, block_size, kv_dim]`."""


class Layer(Protocol):
    """One decoder layer."""

    def __call__(
        self, x: Float[Array, "tokens hidden"], rope: RopeTables, kv_pages: Array, batch: RaggedBatch
    ) -> tuple[Float[Array, "tokens hidden"], Array]:
        """The new residual stream, and the layer's pages with the tokens' KV."""


class Model(Protocol):
    """What the engine needs of a model, an `nnx.Module`; `s2l_jax.models.llama.Llama` says what the methods do."""

    layers: Sequence[Layer]
    axis: str | None

    def embed(
        self, tokens: Int[Array, "tokens"], positions: Int[Array, "tokens"]
    ) -> tuple[Float[Array, "tokens hidden"], RopeTables]:
        """The residual stream before the first layer, and rotary tables."""

    def norm(self, x: Float[Array, "tokens hidden"]) -> Float[Array, "tokens hidden"]:
        """The final norm."""

    def logits(self, hidden: Float[Array, "rows hidden"]) -> Float[Array, "rows vocab"]:
        """Scores of the next token, float32."""


class DeviceCode:
    """Builds the functions of one model. Copies of pages are functions as well.

    Attributes:
      ends: the model's arrays outside its layers.
      groups: arrays of each group of layers.
      layers_per_group: layers that one call runs.
    """

    def __init__(self, model: Model, layers_per_group: int, mesh: Mesh | None = None) -> None:
        """Takes the model apart.

        Args:
          model: on one device, or split over the axis of a mesh (`s2l_jax.models.sharding`).
          layers_per_group: layers that one call runs; divides those of the model.
          mesh: that a split model lies on; None takes the one in use when a function is called.

        Raises:
          InvalidArgument: the layers are not all of one kind.
        """
        graph, state = nnx.split(model)
        self._graph = graph
        paths, self._tree = jax.tree.flatten_with_path(state)
        self._is_end = [path[0].key != "layers" for path, _ in paths]
        self.ends: Leaves = self._ends_of(leaf for _, leaf in paths)
        self._axis, self._mesh = model.axis, mesh

        split = [nnx.split(layer) for layer in model.layers]
        self._layer_graph = split[0][0]
        if any(graph != self._layer_graph for graph, _ in split):
            raise InvalidArgument("layers of this model differ in more than their weights, which is not supported")
        first_layer, self._layer_tree = jax.tree.flatten(split[0][1])
        self._layer_arrays = len(first_layer)
        self.layers_per_group = layers_per_group
        self.groups: tuple[Leaves, ...] = tuple(
            tuple(leaf for _, state in split[first : first + layers_per_group] for leaf in jax.tree.leaves(state))
            for first in range(0, len(split), layers_per_group)
        )
        self.end_specs = self._ends_of(_specs_of(state))
        self.group_specs = _specs_of(split[0][1]) * layers_per_group

    def embed(self, shape: ForwardShape) -> Callable[..., tuple[Array, RopeTables]]:
        """`(ends, last tokens, packed chunks) -> (residual stream, rotary tables)`."""

        def embed(ends: Leaves, last_tokens: Array, packed: Array) -> tuple[Array, RopeTables]:
            inputs = unpack_chunks(packed, shape)
            return self._model(ends).embed(resolve(inputs.tokens, last_tokens), inputs.positions)

        return self._on_all(embed, (self.end_specs, WHOLE, WHOLE), WHOLE)

    def layers(self, shape: ForwardShape) -> Callable[..., tuple[Array, Pages]]:
        """`(group, pages, residual stream, rotary tables, packed chunks) -> (residual stream, pages)`.

        Pages, one array a layer, and the residual stream may be donated.
        """

        def layers(group: Leaves, pages: Pages, x: Array, rope: RopeTables, packed: Array) -> tuple[Array, Pages]:
            batch = unpack_chunks(packed, shape).batch
            written = []
            for index, old_pages in enumerate(pages):
                x, new_pages = self._layer(group, index)(x, rope, old_pages, batch)
                written.append(new_pages)
            return x, tuple(written)

        return self._on_all(layers, (self.group_specs, PAGES, WHOLE, WHOLE, WHOLE), (WHOLE, PAGES))

    def finish(self, shape: ForwardShape) -> Callable[..., tuple[Array, Array]]:
        """`(ends, last_hidden, residual stream, packed chunks) -> (last_hidden, marker)`; the first may be donated.

        Keeps the hidden state of each chunk's last token in the session's row. The marker is a number that exists once
        the step has run, for whoever waits: the other output is donated to the next step.
        """

        def finish(ends: Leaves, last_hidden: Array, x: Array, packed: Array) -> tuple[Array, Array]:
            inputs = unpack_chunks(packed, shape)
            last_rows = self._model(ends).norm(x[inputs.batch.cu_q_lens[1:] - 1])
            kept = last_hidden.at[inputs.session_slots].set(last_rows, mode="drop")
            return kept, inputs.session_slots.sum()

        return self._on_all(finish, (self.end_specs, WHOLE, WHOLE, WHOLE), WHOLE)

    def sample(self, shape: SampleShape) -> Callable[..., tuple[Array, Array]]:
        """`(ends, last_hidden, last tokens, packed samples[, masks[, history]]) -> (tokens, last tokens)`.

        The tokens are laid out as `unpack_sampled` reads them. The last tokens may be donated.
        """

        def sample_greedy(ends: Leaves, last_hidden: Array, last_tokens: Array, packed: Array) -> tuple[Array, Array]:
            slots, _ = unpack_rows(packed)
            tokens = greedy(self._logits(ends, last_hidden, slots))
            return tokens, last_tokens.at[slots].set(tokens, mode="drop")

        def sample_full(
            ends: Leaves,
            last_hidden: Array,
            last_tokens: Array,
            packed: Array,
            masks: Array,
            history: Array | None = None,
        ) -> tuple[Array, Array]:
            slots, rows = unpack_rows(packed)
            sampled = sample(self._logits(ends, last_hidden, slots), rows, masks, history)
            return pack_sampled(sampled), last_tokens.at[slots].set(sampled.token, mode="drop")

        inputs = (self.end_specs, WHOLE, WHOLE, WHOLE)
        if shape.variant is Variant.GREEDY:
            return self._on_all(sample_greedy, inputs, WHOLE)
        return self._on_all(sample_full, (*inputs, WHOLE, WHOLE) if shape.history else (*inputs, WHOLE), WHOLE)

    def gather(self, *, split: bool) -> Callable[..., Contents]:
        """`(pages of all groups, blocks) -> contents`, in one piece, or in one for each block."""

        def gather(groups: Sequence[Pages], blocks: Array) -> Contents:
            contents = gather_pages([pages for group in groups for pages in group], blocks)
            return tuple(jnp.split(contents, len(contents))) if split else (contents,)

        return self._on_all(gather, (PAGES, WHOLE), CONTENTS)

    def scatter(self) -> Callable[..., tuple[list[Pages], Array]]:
        """`(pages of all groups, blocks, contents) -> (pages, marker)`; pages may be donated. See `finish`."""

        def scatter(groups: Sequence[Pages], blocks: Array, contents: Contents) -> tuple[list[Pages], Array]:
            together = contents[0] if len(contents) == 1 else jnp.concatenate(contents)
            layers = scatter_pages([pages for group in groups for pages in group], blocks, together)
            size = self.layers_per_group
            return [layers[first : first + size] for first in range(0, len(layers), size)], blocks.sum()

        return self._on_all(scatter, (PAGES, WHOLE, CONTENTS), (PAGES, WHOLE))

    def _on_all(self, function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
        return on_all_devices(function, self._axis, self._mesh, in_specs, out_specs)

    def _ends_of[T](self, leaves: Iterable[T]) -> tuple[T, ...]:
        """What belongs to arrays outside of the layers, of one thing for each array of the model."""
        return tuple(leaf for leaf, is_end in zip(leaves, self._is_end, strict=True) if is_end)

    def _logits(self, ends: Leaves, last_hidden: Array, slots: Array) -> Array:
        return self._model(ends).logits(last_hidden.at[slots].get(mode="clip"))

    def _model(self, ends: Leaves) -> Model:
        """The model without its layers' arrays."""
        remaining = iter(ends)
        leaves = [next(remaining) if is_end else None for is_end in self._is_end]
        return nnx.merge(self._graph, jax.tree.unflatten(self._tree, leaves))

    def _layer(self, group: Leaves, index: int) -> Layer:
        first = index * self._layer_arrays
        state = jax.tree.unflatten(self._layer_tree, group[first : first + self._layer_arrays])
        return nnx.merge(self._layer_graph, state)


def _specs_of(state: nnx.State) -> tuple[PartitionSpec, ...]:
    """How each array of a state is split, if any is."""
    return tuple(jax.tree.leaves(weight_specs(state), is_leaf=lambda value: isinstance(value, PartitionSpec)))
