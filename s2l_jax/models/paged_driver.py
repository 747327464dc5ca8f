"""The smallest way to run a model: one sequence, no scheduler. For checks and comparisons, not for serving."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models.batch import RaggedBatch
from s2l_jax.models.llama import KVPages, Llama, init_kv_pages

BLOCK_SIZE = 16
CHUNK_TOKENS = 64


class PagedDriver:
    """Runs one sequence through KV pages that lie in shuffled order. Compiles two shapes: a chunk and a single token.

    Args:
      model: on the device.
      max_tokens: longest sequence, prompt and output together.
      dtype: of the KV pages.
    """

    def __init__(self, model: Llama, max_tokens: int, dtype: DTypeLike = jnp.float32) -> None:
        self._model, self._dtype = model, dtype
        self._blocks = -(-max_tokens // BLOCK_SIZE)
        order = np.random.default_rng(0).permutation(self._blocks)
        self._block_table = jnp.asarray(order.astype(np.int32))[None]
        self._step = jax.jit(self._run, donate_argnums=0)
        self.reset()

    def reset(self) -> None:
        """Forgets the sequence."""
        self._pages = init_kv_pages(self._model.config, self._blocks, BLOCK_SIZE, self._dtype)
        self._length = 0

    def feed(self, tokens: Sequence[int]) -> np.ndarray:
        """Runs further tokens of the sequence; returns the logits behind each, float32 `[len(tokens), vocab]`.

        Raises:
          InvalidArgument: the sequence becomes too long.
        """
        room = self._blocks * BLOCK_SIZE - self._length
        if len(tokens) > room:
            raise InvalidArgument(f"{len(tokens)} tokens do not fit: there is room for {room} more")
        rows = []
        width = 1 if len(tokens) == 1 else CHUNK_TOKENS
        for begin in range(0, len(tokens), width):
            part = np.asarray(tokens[begin : begin + width], np.int32)
            padded = np.pad(part, (0, width - len(part)))
            logits, self._pages = self._step(self._pages, padded, np.int32(self._length), np.int32(len(part)))
            rows.append(np.asarray(logits)[: len(part)])
            self._length += len(part)
        return np.concatenate(rows)

    def greedy(self, prompt: Sequence[int], count: int) -> tuple[list[int], np.ndarray]:
        """The most likely continuation of a new sequence.

        Returns:
          `count` token ids, and the logits each was taken from, float32 `[count, vocab]`.
        """
        self.reset()
        rows = [self.feed(prompt)[-1]]
        tokens = [int(rows[0].argmax())]
        while len(tokens) < count:
            rows.append(self.feed(tokens[-1:])[0])
            tokens.append(int(rows[-1].argmax()))
        return tokens, np.stack(rows)

    def _run(self, pages: KVPages, tokens: jax.Array, start: jax.Array, count: jax.Array) -> tuple[jax.Array, KVPages]:
        rows = jnp.arange(tokens.shape[0], dtype=jnp.int32)
        positions = start + rows
        blocks = self._block_table[0][jnp.minimum(positions // BLOCK_SIZE, self._blocks - 1)]
        slots = jnp.where(rows < count, blocks * BLOCK_SIZE + positions % BLOCK_SIZE, self._blocks * BLOCK_SIZE)
        batch = RaggedBatch(
            slots=slots,
            block_tables=self._block_table,
            cu_q_lens=jnp.stack([jnp.int32(0), count]),
            kv_lens=(start + count)[None],
            num_decodes=jnp.int32(tokens.shape[0] == 1),
            num_seqs=jnp.int32(1),
        )
        hidden, pages = self._model.hidden(tokens, positions, pages, batch)
        return self._model.logits(hidden), pages
