"""What a step costs where shapes are static: work is padded, so what counts is the padded work.

Sums over a step (`StepShape`) do not tell what an engine with static shapes does. All tokens are padded to the next
bucket together. Attention runs tile by tile: a chunk of 16 tokens in a step of 256 costs a tile of 256 queries, and
sessions that decode are walked through in groups, each as far as its longest context. `Padding` computes the padded
work of a step, `PaddedCosts` prices it.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cost_profiles.work import Work
from s2l_jax.core.errors import InvalidArgument


class PaddedWork(NamedTuple):
    """Work of one step as the device does it.

    Attributes:
      tokens: rows of the dense layers; 0 if nothing runs through the model.
      chunk_kv_tokens: tokens whose KV is gathered for tiles of chunks.
      chunk_pairs: pairs of query and KV token in these tiles.
      decode_kv_tokens: tokens whose KV is gathered for rows that decode.
      decode_context_tokens: of these, what the rows attend to; the rest is the same page again and again, which is
        cheaper.
      sampled_rows: rows of the output projection; 0 if nothing is sampled.
    """

    tokens: int
    chunk_kv_tokens: int
    chunk_pairs: int
    decode_kv_tokens: int
    decode_context_tokens: int
    sampled_rows: int


@dataclass(frozen=True, slots=True)
class Padding:
    """How an engine pads. `cost_profiles.engine_padding` has that of the engine as it is.

    Attributes:
      token_buckets: rows that a step may have, ascending.
      max_batch: sessions of a step at most.
      tile_tokens: queries of an attention tile at most; never more than the step has rows.
      chunk_block_tokens: KV tokens that a tile gathers at a time.
      group_rows: sessions that decode together at most.
      group_block_rows: KV tokens, over the sessions of a group, that are gathered at a time.
      least_block_tokens: of one session of a group, at least.
      most_block_tokens: and at most.
    """

    token_buckets: tuple[int, ...]
    max_batch: int
    tile_tokens: int
    chunk_block_tokens: int
    group_rows: int
    group_block_rows: int
    least_block_tokens: int
    most_block_tokens: int

    def __post_init__(self) -> None:
        if not self.token_buckets or list(self.token_buckets) != sorted(set(self.token_buckets)):
            raise InvalidArgument(f"token_buckets are {self.token_buckets}, but must be given and ascend")
        if min(self.token_buckets[0], *(getattr(self, name) for name in self.__slots__[1:])) < 1:
            raise InvalidArgument(f"{self}: nothing may be below 1")

    def padded(self, work: Work) -> PaddedWork:
        """The padded work of a step."""
        tokens = self._bucket(work.tokens)
        kv_tokens = pairs = 0
        tile = min(tokens, self.tile_tokens)
        for count, context in work.chunks:
            for start in range(0, count, tile):
                seen = _up(context + min(start + tile, count), self.chunk_block_tokens)
                kv_tokens += seen
                pairs += tile * seen
        rows = 1 << (work.samples - 1).bit_length() if work.samples else 0
        return PaddedWork(
            tokens,
            kv_tokens,
            pairs,
            self._decoded(work.decodes, tokens),
            sum(work.decodes),
            min(rows, self.max_batch),
        )

    def _decoded(self, contexts: tuple[int, ...], tokens: int) -> int:
        rows = min(tokens, self.max_batch, self.group_rows)
        if not rows:
            return 0
        block = min(max(self.group_block_rows // rows, self.least_block_tokens), self.most_block_tokens)
        groups = (contexts[first : first + rows] for first in range(0, len(contexts), rows))
        return sum(rows * _up(max(group) + 1, block) for group in groups)

    def _bucket(self, tokens: int) -> int:
        """A step that exceeds all buckets, as of an engine with a larger budget, is not padded."""
        buckets = self.token_buckets
        return buckets[bisect_left(buckets, tokens)] if 0 < tokens <= buckets[-1] else tokens


@dataclass(frozen=True, slots=True)
class PaddedCosts:
    """Seconds of a step as a sum over its padded work.

    Attributes:
      padding: how the engine pads.
      dense_s: a step of each bucket, without attention.
      chunk_kv_s: each KV token gathered for a tile of a chunk.
      chunk_pair_s: each pair of query and KV token of such tiles.
      decode_kv_s: each KV token gathered for a row that decodes.
      decode_context_s: each such token that the row attends to, in addition.
      sample_s: sampling at all.
      sample_row_s: each sampled row.

    Raises:
      InvalidArgument: a term is negative or not finite, or `dense_s` does not ascend with the buckets.
    """

    padding: Padding
    dense_s: tuple[float, ...]
    chunk_kv_s: float
    chunk_pair_s: float
    decode_kv_s: float
    decode_context_s: float
    sample_s: float
    sample_row_s: float

    def __post_init__(self) -> None:
        if len(self.dense_s) != len(self.padding.token_buckets) or list(self.dense_s) != sorted(self.dense_s):
            raise InvalidArgument(
                f"dense_s are {self.dense_s}, but must ascend, one for each of the buckets {self.padding.token_buckets}"
            )
        rest = (getattr(self, name) for name in self.__slots__[2:])
        for value in (self.dense_s[0], self.dense_s[-1], *rest):
            if not (math.isfinite(value) and value >= 0):
                raise InvalidArgument(f"a term is {value!r}, but must be a number of seconds, 0 or more")

    def step(self, work: Work) -> float:
        """Seconds of a step."""
        padded = self.padding.padded(work)
        seconds = (
            self.chunk_kv_s * padded.chunk_kv_tokens
            + self.chunk_pair_s * padded.chunk_pairs
            + self.decode_kv_s * padded.decode_kv_tokens
            + self.decode_context_s * padded.decode_context_tokens
        )
        if padded.tokens:
            seconds += self._dense(padded.tokens)
        if padded.sampled_rows:
            seconds += self.sample_s + self.sample_row_s * padded.sampled_rows
        return seconds

    def _dense(self, tokens: int) -> float:
        """Beyond the largest bucket, in proportion to it."""
        buckets = self.padding.token_buckets
        if tokens > buckets[-1]:
            return self.dense_s[-1] * tokens / buckets[-1]
        return float(np.interp(tokens, buckets, self.dense_s))


def _up(tokens: int, multiple: int) -> int:
    return -(-tokens // multiple) * multiple
