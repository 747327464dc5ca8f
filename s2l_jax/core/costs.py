"""What work costs, in seconds: the seam between scheduler and hardware."""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from s2l_jax.core.errors import InvalidArgument

_ROUNDING = 1e-6  # of a token, so that 20 tokens fit into the time that 20 tokens take


class StepShape(NamedTuple):
    """How much work one step is.

    Attributes:
      prefill_tokens: tokens of chunks longer than one.
      attended_tokens: sum over these chunks of `n * (start + n / 2)`: the pairs of tokens that attention looks at.
      decodes: chunks of one token.
      decode_context_tokens: sum of the contexts of these.
    """

    prefill_tokens: int = 0
    attended_tokens: float = 0.0
    decodes: int = 0
    decode_context_tokens: int = 0


NO_WORK = StepShape()


class CostModel(Protocol):
    """Predicts seconds for one (hardware, model, parallelism). Pure and fast: it is asked several times a step."""

    def step(self, shape: StepShape) -> float:
        """One step of this shape."""

    def recompute(self, tokens: int, context: int) -> float:
        """Running `tokens` tokens of one sequence behind `context` computed ones."""

    def tokens_within(self, seconds: float, context: int) -> int:
        """How many tokens of one sequence behind `context` computed ones run in this time; may be 0."""

    def swap_out(self, blocks: int) -> float:
        """Copying this many blocks from the device to the host."""

    def swap_in(self, blocks: int) -> float:
        """Copying this many blocks from the host to the device."""

    def handoff(self, blocks: int) -> float:
        """Moving this many blocks from one engine to another."""


@dataclass(frozen=True, slots=True)
class PhysicalCosts:
    """Costs as sums of physical terms (design: "Cost model").

    The defaults are of a model of 135M parameters in float32 on two CPU cores.

    Attributes:
      step_s: any step.
      token_s: each prefilled token.
      attended_s: each pair of tokens that prefill attention looks at.
      decode_s: each decoded token.
      decode_context_s: each token of context that a decoded token looks at.
      swap_out_s: any copy to the host.
      swap_out_block_s: each block of it.
      swap_in_s: any copy from the host.
      swap_in_block_s: each block of it.
      handoff_s: any transfer to another engine.
      handoff_block_s: each block of it.

    Raises:
      InvalidArgument: a term is negative or not finite, or a token costs nothing.
    """

    step_s: float = 0.026
    token_s: float = 1e-3
    attended_s: float = 5e-7
    decode_s: float = 2e-3
    decode_context_s: float = 9e-6
    swap_out_s: float = 6e-4
    swap_out_block_s: float = 3e-4
    swap_in_s: float = 7e-4
    swap_in_block_s: float = 3e-4
    handoff_s: float = 6e-4
    handoff_block_s: float = 3e-4

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InvalidArgument(f"{name} is {value!r}, but must be a number of seconds, 0 or more")
        if self.token_s == 0:
            raise InvalidArgument("token_s is 0, but a token costs something")

    def step(self, shape: StepShape) -> float:
        """One step of this shape."""
        return (
            self.step_s
            + self.token_s * shape.prefill_tokens
            + self.attended_s * shape.attended_tokens
            + self.decode_s * shape.decodes
            + self.decode_context_s * shape.decode_context_tokens
        )

    def recompute(self, tokens: int, context: int) -> float:
        """Running `tokens` tokens of one sequence behind `context` computed ones."""
        if not tokens:
            return 0.0
        return self.step_s + tokens * (self.token_s + self.attended_s * (context + tokens / 2))

    def tokens_within(self, seconds: float, context: int) -> int:
        """How many tokens of one sequence behind `context` computed ones run in this time; may be 0."""
        left_s = seconds - self.step_s
        if left_s <= 0:
            return 0
        linear = self.token_s + self.attended_s * context
        # left = linear * n + attended / 2 * n ** 2, solved so that attended_s = 0 is no special case
        return int(2 * left_s / (linear + math.sqrt(linear * linear + 2 * self.attended_s * left_s)) + _ROUNDING)

    def swap_out(self, blocks: int) -> float:
        """Copying this many blocks from the device to the host."""
        return self.swap_out_s + blocks * self.swap_out_block_s if blocks else 0.0

    def swap_in(self, blocks: int) -> float:
        """Copying this many blocks from the host to the device."""
        return self.swap_in_s + blocks * self.swap_in_block_s if blocks else 0.0

    def handoff(self, blocks: int) -> float:
        """Moving this many blocks from one engine to another."""
        return self.handoff_s + blocks * self.handoff_block_s if blocks else 0.0
