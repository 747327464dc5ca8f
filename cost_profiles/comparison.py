"""Bringing back the KV of a victim: recomputing it against swapping it out and in again, over the number of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from cost_profiles.profile import Profile
from s2l_jax.core.errors import InvalidArgument

Way = Literal["recompute", "swap"]


@dataclass(frozen=True, slots=True)
class Row:
    """What it takes to bring back so many tokens.

    Attributes:
      tokens: how many.
      recompute_s: in a step of their own.
      shared_s: in a step that runs anyway, which is how the scheduler prices them.
      swap_out_s: copying their blocks to the host.
      swap_in_s: copying them back.
    """

    tokens: int
    recompute_s: float
    shared_s: float
    swap_out_s: float
    swap_in_s: float

    @property
    def swap_s(self) -> float:
        """Out and in together."""
        return self.swap_out_s + self.swap_in_s


@dataclass(frozen=True, slots=True)
class Stretch:
    """Lengths over which one way is cheaper, ends included."""

    cheaper: Way
    first_tokens: int
    last_tokens: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both ways, behind some context that stays.

    Attributes:
      context: tokens before those that are brought back.
      rows: lengths that double, in whole blocks, and the longest there may be.
      own: which way is cheaper if tokens are recomputed in a step of their own, over all lengths in whole blocks.
      shared: the same, in a step that runs anyway.
    """

    context: int
    rows: tuple[Row, ...]
    own: tuple[Stretch, ...]
    shared: tuple[Stretch, ...]


def compare(profile: Profile, context: int = 0) -> Comparison:
    """Compares both ways at all lengths that fit behind a context.

    Raises:
      InvalidArgument: no block fits behind it.
    """
    block = profile.memory.block_tokens
    longest = (profile.max_model_len - context) // block * block
    if context < 0 or longest < block:
        raise InvalidArgument(
            f"context is {context} tokens, but must be from 0 to {profile.max_model_len - block}, "
            f"so that a block fits behind it"
        )
    every = [_row(profile, tokens, context) for tokens in range(block, longest + 1, block)]
    doubling = {block << power for power in range(longest.bit_length()) if block << power <= longest}
    return Comparison(
        context=context,
        rows=tuple(row for row in every if row.tokens in doubling | {longest}),
        own=_stretches([(row.tokens, row.recompute_s, row.swap_s) for row in every]),
        shared=_stretches([(row.tokens, row.shared_s, row.swap_s) for row in every]),
    )


def crossovers(stretches: Sequence[Stretch]) -> list[int]:
    """Lengths from which on the other way is cheaper."""
    return [stretch.first_tokens for stretch in stretches[1:]]


def describe(stretches: Sequence[Stretch]) -> str:
    """In words, such as `recompute below 512 tokens, swap from there on`."""
    if len(stretches) == 1:
        return f"{stretches[0].cheaper} at every length"
    words = [f"{stretches[0].cheaper} below {stretches[1].first_tokens:,} tokens"]
    words += [f"{one.cheaper} from there to {after.first_tokens:,}" for one, after in pairwise(stretches[1:])]
    return ", ".join([*words, f"{stretches[-1].cheaper} from there on"])


def _row(profile: Profile, tokens: int, context: int) -> Row:
    costs, blocks = profile.costs, -(-tokens // profile.memory.block_tokens)
    recompute_s = costs.recompute(tokens, context)
    return Row(tokens, recompute_s, recompute_s - costs.step_s, costs.swap_out(blocks), costs.swap_in(blocks))


def _stretches(costs: Sequence[tuple[int, float, float]]) -> tuple[Stretch, ...]:
    """Of `(tokens, recompute_s, swap_s)` in order of tokens. Equal costs are swaps: they leave the device free."""
    stretches: list[Stretch] = []
    for tokens, recompute_s, swap_s in costs:
        cheaper: Way = "recompute" if recompute_s < swap_s else "swap"
        if stretches and stretches[-1].cheaper == cheaper:
            stretches[-1] = Stretch(cheaper, stretches[-1].first_tokens, tokens)
        else:
            stretches.append(Stretch(cheaper, tokens, tokens))
    return tuple(stretches)
