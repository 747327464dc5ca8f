"""What changes on the device: the page pool and the session buffers, and the calls that change them.

Every call donates the buffers it writes and puts the new ones in their place, so a handle taken before it is dead after
it. No call waits for the device: it runs what was started in the order in which it was started, as far as one reads
what another wrote.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Compiled
from jaxtyping import Array

from kernels_pallas.attention import kv_pages_shape
from s2l_jax.core.plan import MASK_WORD_BITS
from s2l_jax.engine.buckets import FORWARD_PARTS, ForwardShape, SampleShape, Variant, gather_name, scatter_name
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.device_code import Contents, DeviceCode, Pages
from s2l_jax.engine.placement import Placement
from s2l_jax.models.config import ModelConfig


class DeviceState:
    """Pages and session buffers of one engine.

    Attributes:
      code: the model's functions and weights.
      placement: where everything is.
      executables: by name; to be set before anything is called.
      mask_words: int32 words that have a bit for each token.
      pages: the page pool, one array a layer, in the groups of `code`.
      last_hidden: each session's last hidden state behind the final norm, `[max_sessions, hidden]`.
      last_tokens: the token each session sampled last, int32 `[max_sessions]`.
    """

    def __init__(self, code: DeviceCode, placement: Placement, model_config: ModelConfig, config: EngineConfig) -> None:
        self.code = code
        self.placement = placement
        self._whole, self._put = placement.whole, placement.putter()  # made once: every step needs them
        self.executables: Mapping[str, Compiled] = {}
        self.mask_words = -(-model_config.vocab_size // MASK_WORD_BITS)
        self._no_masks: dict[int, Array] = {}
        self._model_config = model_config
        self._config = config
        self.pages: list[Pages]
        self.last_hidden: Array
        self.last_tokens: Array
        self._allocate()

    def forward(self, shape: ForwardShape, packed: np.ndarray) -> Array:
        """Runs chunks, as `pack_chunks` lays them out; what it returns is ready when they have run."""
        embed, layers, finish = (self.executables[shape.name(part)] for part in FORWARD_PARTS)
        on_device = self._put(packed)
        x, rope = embed(self.code.ends, self.last_tokens, on_device)
        for index, group in enumerate(self.code.groups):
            x, self.pages[index] = layers(group, self.pages[index], x, rope, on_device)
        self.last_hidden, marker = finish(self.code.ends, self.last_hidden, x, on_device)
        return marker

    def sample(
        self, shape: SampleShape, rows: np.ndarray, masks: np.ndarray | None = None, history: np.ndarray | None = None
    ) -> Array:
        """Samples, as `sample_packing` lays them out; returns what `unpack_sampled` reads."""
        inputs: list[np.ndarray | Array] = [rows]
        if shape.variant is not Variant.GREEDY:
            inputs.append(self._no_masks_of(shape.rows) if masks is None else masks)
        if history is not None:
            inputs.append(history)
        sample = self.executables[shape.name]
        tokens, self.last_tokens = sample(self.code.ends, self.last_hidden, self.last_tokens, *inputs)
        return tokens

    def gather(self, blocks: Sequence[int]) -> Contents:
        """Copies pages out of the pool, as many as one of `COPIED_PAGES`."""
        return self.executables[gather_name(len(blocks))](self.pages, self._indices(blocks))

    def scatter(self, blocks: Sequence[int], contents: Contents) -> Array:
        """Copies pages into the pool; what it returns is ready when they are there."""
        scatter = self.executables[scatter_name(len(blocks))]
        self.pages, marker = scatter(self.pages, self._indices(blocks), contents)
        return marker

    def rehearse(self, forward: ForwardShape, packed: np.ndarray) -> None:
        """Runs the executables of a forward step once, on padding.

        The first run of an executable takes several times as long as any later one, and should not be a user's. All
        groups of layers share theirs, so one group is enough.
        """
        embed, layers, finish = (self.executables[forward.name(part)] for part in FORWARD_PARTS)
        on_device = self._put(packed)
        x, rope = embed(self.code.ends, self.last_tokens, on_device)
        x, self.pages[0] = layers(self.code.groups[0], self.pages[0], x, rope, on_device)
        self.last_hidden, _ = finish(self.code.ends, self.last_hidden, x, on_device)

    def settle(self) -> bool:
        """Waits for all that was started; if it took the buffers with it, replaces them and returns False."""
        try:
            jax.block_until_ready((self.pages, self.last_hidden, self.last_tokens))
        except RuntimeError:
            self._allocate()
            return False
        return True

    def delete(self) -> None:
        """Gives the memory back."""
        for buffer in jax.tree.leaves((self.pages, self.last_hidden, self.last_tokens)):
            buffer.delete()

    def _no_masks_of(self, rows: int) -> Array:
        """What stands in for masks if no row has one. It is there already, so it costs no transfer."""
        if rows not in self._no_masks:
            self._no_masks[rows] = jnp.zeros((rows, self.mask_words), jnp.int32, device=self._whole)
        return self._no_masks[rows]

    def _indices(self, blocks: Sequence[int]) -> Array:
        return self._put(np.asarray(blocks, np.int32))

    def _allocate(self) -> None:
        config, model, whole = self._config, self._model_config, self._whole
        shape = kv_pages_shape(config.num_blocks, config.block_size, model.num_kv_heads, model.head_dim)
        pages = tuple(jnp.zeros(shape, config.dtype, device=self.placement.pages) for _ in range(model.num_layers))
        self.last_hidden = jnp.zeros((config.max_sessions, model.hidden_size), config.dtype, device=whole)
        self.last_tokens = jnp.zeros(config.max_sessions, jnp.int32, device=whole)
        count = self.code.layers_per_group
        self.pages = [pages[first : first + count] for first in range(0, len(pages), count)]
