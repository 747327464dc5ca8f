"""One step of attention: a block of KV into the online softmax of a warpgroup's query rows."""

import functools
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from kernels_pallas.gpu.memory import clear_rows
from kernels_pallas.gpu.tensor_cores import TensorCores
from kernels_pallas.scores import MASKED, Scores

type Ref = Any
type Scalar = Any
type State = tuple[Array, Array, tuple[Array, ...]]  # largest logit, sum of weights, weighted values by columns


@dataclass(frozen=True)
class Rows:
    """Query rows of a warpgroup, `group` query heads for each token.

    Attributes:
      queries: `[rows, head_dim]` in shared memory.
      weights: `[rows, block_tokens]` in shared memory.
      first_position: of the first token of the tile that these rows are of; later tokens follow it.
      first_row: of these rows in the tile.
      group: rows of a token.
      columns: of values in one product.
      first_value: column of the values that these rows begin with.
      value_columns: of the values that these rows sum up.
      scores: how they are made.
      cores: that multiply.
    """

    queries: Ref
    weights: Ref
    first_position: Scalar
    first_row: Scalar
    group: int
    columns: int
    first_value: Scalar
    value_columns: int
    scores: Scores
    cores: TensorCores

    def begin(self) -> State:
        """Before the first block."""
        rows = self.queries.shape[0]

        def full(value: float, shape: tuple[int, ...], layout: Any) -> Array:
            return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout)

        by_row = self.cores.layout.reduce(1)
        return (
            full(MASKED, (rows,), by_row),
            full(0.0, (rows,), by_row),
            tuple(
                full(0.0, (rows, self.columns), self.cores.layout) for _ in range(self.value_columns // self.columns)
            ),
        )

    def attend(self, state: State, block: Ref, first_token: Scalar, *, masked: bool) -> State:
        """Adds a block.

        Args:
          state: before.
          block: `[block_tokens, 2 * head_dim]` in shared memory.
          first_token: of the block.
          masked: whether some row may not see all of the block.
        """
        largest, total, sums = state
        head_dim = self.queries.shape[1]
        keys = block.at[:, pl.ds(0, head_dim)]
        products = self.cores.product(self.queries, keys.transpose((1, 0)))
        logits = self.scores.exponents(products * self.scores.factor)
        if masked:
            logits = jnp.where(self._seen(first_token, logits.shape), logits, MASKED)
        now = jnp.maximum(largest, logits.max(axis=1))
        shrink = jnp.exp2(largest - now)
        weights = jnp.exp2(logits - lax.broadcast_in_dim(now, logits.shape, [0]))
        total = total * shrink + weights.sum(axis=1)
        self.weights[...] = weights.astype(self.weights.dtype)
        plgpu.commit_smem()
        added = []
        for number, before in enumerate(sums):
            values = block.at[:, pl.ds(head_dim + self.first_value + number * self.columns, self.columns)]
            scaled = before * lax.broadcast_in_dim(shrink, before.shape, [0])
            added.append(scaled + self.cores.product(self.weights, values))
        return now, total, tuple(added)

    def clear_tail(self, block: Ref, live_tokens: Scalar, worker: Scalar, workers: int) -> None:
        """Makes values of a block zero from token `live_tokens` on; each of the workers does its share of the columns.

        A weight of zero does not cancel NaN, which memory behind a sequence's end may hold.
        """
        head_dim = self.queries.shape[1]
        for number in range(head_dim // self.columns):
            values = block.at[:, pl.ds(head_dim + number * self.columns, self.columns)]
            pl.when(worker == number % workers)(functools.partial(clear_rows, values, live_tokens))
        plgpu.commit_smem()

    def _seen(self, first_token: Scalar, shape: tuple[int, ...]) -> Array:
        layout = self.cores.layout
        row = plgpu.broadcasted_iota(jnp.int32, (shape[0],), 0, layout=layout.reduce(1))
        position = self.first_position + lax.div(row + self.first_row, jnp.int32(self.group))
        columns = plgpu.broadcasted_iota(jnp.int32, shape, 1, layout=layout) + first_token
        return self.scores.sees(lax.broadcast_in_dim(position, shape, [0]), columns)
