"""Scores and masks of paged attention, as both kernels compute them."""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

MASKED = -1e30  # finite, so that a fully masked row stays free of NaN
_LOG2_E = math.log2(math.e)


@dataclass(frozen=True, slots=True)
class Numerics:
    """What happens between the two matrix products."""

    scale: float
    sliding_window: int | None
    soft_cap: float | None

    def logits(self, dots: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
        """Scores in units of log2(e), so that their exponential is the one power of two that the hardware has."""
        if self.soft_cap is None:
            return dots * (self.scale * _LOG2_E)
        return jnp.tanh(dots * (self.scale / self.soft_cap)) * (self.soft_cap * _LOG2_E)

    def sees(
        self, positions: Int[Array, "rows columns"], columns: Int[Array, "rows columns"]
    ) -> Bool[Array, "rows columns"]:
        """Whether the query at a position looks at the token of a column."""
        seen = columns <= positions
        if self.sliding_window is not None:
            seen &= columns > positions - self.sliding_window
        return seen

    def first_token(self, position: Int[Array, ""]) -> Int[Array, ""]:
        """The first token that the query at `position` looks at."""
        if self.sliding_window is None:
            return jnp.int32(0)
        return jnp.maximum(position - (self.sliding_window - 1), 0)
