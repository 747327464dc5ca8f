"""What both kernels do with one block: which lanes of a row are keys and values, and the steps of a softmax.

Keys and values lie side by side in a row. Where a head fills whole registers (128 lanes), each is a slice that costs
nothing. Smaller heads are not moved either: queries are padded with zeros to the whole row, so that values do not
count, and outputs are whole rows of which the last lanes are wanted.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax

from kernels_pallas.scores import MASKED, Scores

LANES = 128
LOWEST = MASKED / 2  # where maxima begin: above, so that what is not seen weighs nothing even where nothing is seen

type Value = Any
type Ref = Any


@dataclass(frozen=True)
class Numerics(Scores):
    """Scores of heads of one size.

    Attributes:
      head_dim: lanes of keys, and of values.
    """

    head_dim: int

    @property
    def is_sliced(self) -> bool:
        """Whether keys and values are whole registers."""
        return self.head_dim % LANES == 0

    @property
    def lanes(self) -> int:
        """Of queries, and of outputs, of which `out_slice` is wanted."""
        return self.head_dim if self.is_sliced else 2 * self.head_dim

    @property
    def stride(self) -> int:
        """Lanes from a head to the next where heads lie side by side, whole registers."""
        return -(-self.lanes // LANES) * LANES

    @property
    def out_slice(self) -> slice:
        """Where the values are."""
        return slice(self.lanes - self.head_dim, self.lanes)

    def keys(self, kv: Ref, dtype: jnp.dtype) -> Value:
        """`[tokens, lanes]` of a head's pages `[pages, page_size, kv_dim]`."""
        return self._lanes(kv, dtype, 0)

    def values(self, kv: Ref, dtype: jnp.dtype) -> Value:
        """`[tokens, lanes]`, likewise."""
        return self._lanes(kv, dtype, self.head_dim)

    def _lanes(self, kv: Ref, dtype: jnp.dtype, first: int) -> Value:
        pages, page_size, _ = kv.shape
        value = kv[:, :, first : first + self.head_dim] if self.is_sliced else kv[...]
        return value.reshape(pages * page_size, value.shape[-1]).astype(dtype)


def dot(a: Value, b: Value, *, transposed: bool = False) -> Value:
    """Matrix product in float32; exact to its last bits if the factors are float32."""
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT
    dimensions = (((1,), (1 if transposed else 0,)), ((), ()))
    return lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)


def across(per_row: Value, lanes: int) -> Value:
    """Repeats a number that fills a row's 128 lanes over more of them."""
    return jnp.concatenate([per_row] * -(-lanes // LANES), axis=1)[:, :lanes]


def lane_sums(values: Value) -> Value:
    """`[rows, LANES]`: sums of every 128th; adding up the lanes is left for later, since it costs more."""
    parts = [values[:, start : start + LANES] for start in range(0, values.shape[1], LANES)]
    while len(parts) > 1:
        parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=False)] + parts[len(parts) & ~1 :]
    return parts[0]


def normalized(weighted: Value, sums: Value) -> Value:
    """Weighted sums over all weights; `sums` are what `lane_sums` gives. Zero where nothing was seen."""
    total = jnp.sum(sums, axis=1, keepdims=True)
    return weighted / jnp.where(total == 0.0, 1.0, total)
