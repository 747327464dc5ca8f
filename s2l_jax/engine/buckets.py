"""All static shapes of the device code, in one place.

XLA compiles for fixed shapes, so each step is padded to the next bucket. Every executable costs seconds of compilation
on the first start and some memory for ever; every missing one costs padding in each step:

- Tokens: a dense layer's time on a CPU grows with the padded tokens from about 4 on, so powers of two below 64, where
  padding is milliseconds, and from 64 on the points half way between as well, which bounds padding to a third where
  a step takes a tenth of a second or more and is what a user waits for.
- Sequences: not a dimension of its own. A step of T tokens has at most T sequences, so tables have min(T, max_batch)
  rows: small where decoding is fast.
- Context length: not a dimension either; attention loops run as far as the longest sequence of the step.
- Layers: an executable of all layers takes a small model of 30 about 6 s of processor time to compile and more than 1 s
  to load. One of a few layers, called once for each group of as many, takes a fraction of both, and the further calls
  cost less than a hundredth of the step.
- Sampled rows: powers of two, since the output projection is the largest matrix of a small model; of four for what is
  rarer. Three variants, because what most traffic does not need must cost it nothing: GREEDY is an argmax, FULL does
  everything but penalties, PENALTIES also reads the tokens so far. The last one's history input is
  rows x max_model_len, so it exists for few rows only and larger batches run it in groups.
- Copied pages: two counts, run as often as it takes, so that no copy is padding. Eight pages make the call cheap beside
  the copy; many more are slower on a CPU, whose allocator then gets the memory anew from the system.
"""

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from s2l_jax.engine.config import EngineConfig

FORWARD_PARTS = ("embed", "layers", "finish")
"""Executables of a forward step, in the order in which they run."""

COPIED_PAGES = (8, 1)
"""Pages that one executable copies: the most first, and 1 at last."""

_HALF_STEPS_FROM_TOKENS = 64
_PENALTY_ROWS = (1, 8)
_MAX_LAYERS_PER_CALL = 6


class Variant(Enum):
    """What a sampling executable can do."""

    GREEDY = "greedy"
    FULL = "full"
    PENALTIES = "penalties"


@dataclass(frozen=True, slots=True)
class ForwardShape:
    """Static shape of one forward executable.

    Attributes:
      tokens: rows of the flat token axis.
      sequences: rows of the block table.
      blocks: columns of the block table.
    """

    tokens: int
    sequences: int
    blocks: int

    def name(self, part: str) -> str:
        """Of the executable that does `part`, one of `FORWARD_PARTS`."""
        return f"{part}-{self.tokens}"


@dataclass(frozen=True, slots=True)
class SampleShape:
    """Static shape of one sampling executable.

    Attributes:
      rows: sampled rows.
      variant: what it can do.
      history: columns of the history input; 0 where there is none.
    """

    rows: int
    variant: Variant
    history: int

    @property
    def name(self) -> str:
        """For progress displays and cache keys."""
        return f"sample-{self.variant.value}-{self.rows}"


class Buckets:
    """The shapes one engine compiles, and which of them a step takes."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._tokens = token_buckets(config.token_budget)
        self._rows = {
            Variant.GREEDY: _powers_of_two(config.max_batch),
            Variant.FULL: _powers_of_four(config.max_batch),
            Variant.PENALTIES: tuple(sorted({min(rows, config.max_batch) for rows in _PENALTY_ROWS})),
        }

    def forward_shapes(self) -> tuple[ForwardShape, ...]:
        """Every forward shape, smallest first."""
        return tuple(self.forward(tokens) for tokens in self._tokens)

    def sample_shapes(self) -> tuple[SampleShape, ...]:
        """Every sampling shape."""
        return tuple(self.sample(rows, variant) for variant, all_rows in self._rows.items() for rows in all_rows)

    def forward(self, tokens: int) -> ForwardShape:
        """The smallest forward shape that holds `tokens` tokens."""
        padded = self._tokens[bisect.bisect_left(self._tokens, tokens)]
        return ForwardShape(padded, min(padded, self._config.max_batch), self._config.max_blocks_per_sequence)

    def sample(self, rows: int, variant: Variant) -> SampleShape:
        """The smallest sampling shape of `variant` that holds `rows` rows."""
        sizes = self._rows[variant]
        history = self._config.max_model_len if variant is Variant.PENALTIES else 0
        return SampleShape(sizes[bisect.bisect_left(sizes, rows)], variant, history)

    def max_rows(self, variant: Variant) -> int:
        """Rows of the largest executable of `variant`."""
        return self._rows[variant][-1]


def token_buckets(token_budget: int) -> tuple[int, ...]:
    """Padded token counts up to the budget, which is always the last one."""
    sizes = set(_powers_of_two(token_budget))
    sizes |= {size + size // 2 for size in sizes if size >= _HALF_STEPS_FROM_TOKENS}
    return tuple(sorted(size for size in sizes if size <= token_budget))


def gather_name(pages: int) -> str:
    """Name of the executable that copies pages out of the pool."""
    return f"gather-{pages}"


def scatter_name(pages: int) -> str:
    """Name of the executable that copies pages into the pool."""
    return f"scatter-{pages}"


def copy_runs(pages: int) -> Iterator[slice]:
    """Cuts a number of pages into runs of lengths that `COPIED_PAGES` names."""
    start = 0
    for size in COPIED_PAGES:
        while pages - start >= size:
            yield slice(start, start + size)
            start += size


def layers_per_call(num_layers: int) -> int:
    """Layers of one executable: the most, up to the limit, that make up the model in equal groups."""
    return max(count for count in range(1, _MAX_LAYERS_PER_CALL + 1) if num_layers % count == 0)


def _powers_of_two(limit: int) -> tuple[int, ...]:
    """1, 2, 4, ... below `limit`, then `limit` itself."""
    return (*(1 << exponent for exponent in range((limit - 1).bit_length())), limit)


def _powers_of_four(limit: int) -> tuple[int, ...]:
    """Every other power of two below `limit`, then `limit` itself."""
    below = _powers_of_two(limit)[:-1]
    return (*below[::2], limit)
