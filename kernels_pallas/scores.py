"""Scores and masks of paged attention, as the kernels for accelerators compute them: as exponents of two."""

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

MASKED = -1e30  # score of what is not seen; finite, so that a row that sees nothing stays free of NaN
_LOG2_E = math.log2(math.e)

type Value = Any  # an array, inside a kernel


@dataclass(frozen=True)
class Scores:
    """What happens between the two matrix products. The exponential that the hardware has is that of two.

    Attributes:
      scale: as in `paged_attention`.
      sliding_window: as in `paged_attention`.
      soft_cap: likewise.
    """

    scale: float
    sliding_window: int | None
    soft_cap: float | None

    @property
    def factor(self) -> float:
        """What products of queries and keys, or the queries beforehand, are multiplied with."""
        return self.scale * _LOG2_E if self.soft_cap is None else self.scale / self.soft_cap

    def exponents(self, scaled: Value) -> Value:
        """Exponents of two, from products that have been multiplied with `factor`."""
        return scaled if self.soft_cap is None else jnp.tanh(scaled) * (self.soft_cap * _LOG2_E)

    def sees(self, positions: Value, columns: Value) -> Value:
        """Whether queries at `positions` see the tokens `columns`."""
        seen = columns <= positions
        return seen if self.sliding_window is None else seen & (columns > positions - self.sliding_window)

    def first_token(self, position: Value) -> Value:
        """The first token that the query at `position` sees."""
        return jnp.int32(0) if self.sliding_window is None else jnp.maximum(position - (self.sliding_window - 1), 0)
