"""Sampling parameters of one session."""

from dataclasses import dataclass

from s2l_jax.core.constraint import Constraint
from s2l_jax.core.errors import InvalidArgument

MAX_LOGPROBS = 20
MAX_STOP_STRINGS = 16
MAX_STOP_STRING_CHARS = 256
MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY = 0.01, 100.0  # beyond, float32 logits overflow
_UINT64 = 1 << 64


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a session samples. The defaults decode greedily until an end-of-sequence token.

    Attributes:
      max_tokens: output tokens at most; at least 1.
      temperature: 0 is greedy.
      top_k: keep the k most likely tokens; 0 is off.
      top_p: keep the smallest set of tokens with at least this probability; 1 is off.
      min_p: drop tokens less likely than this fraction of the most likely one; 0 is off.
      seed: makes sampling repeatable; None lets the server choose.
      stop: strings that end the output; the match itself is not returned.
      stop_token_ids: tokens that end the output, besides the model's own end-of-sequence tokens.
      ignore_eos: generate past end-of-sequence tokens.
      repetition_penalty: divides (multiplies, if negative) logits of tokens seen in prompt or output; 1 is off.
      presence_penalty: subtracted once from tokens seen in the output; 0 is off.
      frequency_penalty: subtracted per occurrence in the output; 0 is off.
      logprobs: alternatives reported with each token; None reports nothing, 0 the chosen token's own.
      constraint: what the output must look like; None is anything.

    Raises:
      InvalidArgument: a field is out of range; the message names field, value and range.
    """

    max_tokens: int = 16
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: int | None = None
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        _require("max_tokens", self.max_tokens, self.max_tokens >= 1, "at least 1")
        _require("temperature", self.temperature, 0.0 <= self.temperature <= 100.0, "between 0 and 100")
        _require("top_k", self.top_k, self.top_k >= 0, "0 (off) or more")
        _require("top_p", self.top_p, 0.0 < self.top_p <= 1.0, "above 0 and at most 1 (off)")
        _require("min_p", self.min_p, 0.0 <= self.min_p <= 1.0, "between 0 (off) and 1")
        if self.seed is not None:
            _require("seed", self.seed, 0 <= self.seed < _UINT64, "an unsigned 64-bit integer")
        _require("stop", len(self.stop), len(self.stop) <= MAX_STOP_STRINGS, f"at most {MAX_STOP_STRINGS} strings")
        for text in self.stop:
            good = 0 < len(text) <= MAX_STOP_STRING_CHARS
            _require("stop", text[:40], good, f"strings of 1 to {MAX_STOP_STRING_CHARS} characters")
        good = MIN_REPETITION_PENALTY <= self.repetition_penalty <= MAX_REPETITION_PENALTY
        want = f"between {MIN_REPETITION_PENALTY:g} and {MAX_REPETITION_PENALTY:g} (1 is off)"
        _require("repetition_penalty", self.repetition_penalty, good, want)
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            _require(name, value, -2.0 <= value <= 2.0, "between -2 and 2")
        if self.logprobs is not None:
            _require("logprobs", self.logprobs, 0 <= self.logprobs <= MAX_LOGPROBS, f"between 0 and {MAX_LOGPROBS}")

    @property
    def is_greedy(self) -> bool:
        """True if the most likely token is always taken."""
        return self.temperature == 0.0

    @property
    def has_penalties(self) -> bool:
        """True if the tokens seen so far change the logits."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    @property
    def needs_output(self) -> bool:
        """True if sampling a token takes knowing the one before it, so that no step can be planned ahead."""
        return self.has_penalties or self.constraint is not None


def _require(field: str, value: object, good: bool, want: str) -> None:
    if not good:
        raise InvalidArgument(f"{field} is {value!r}, but must be {want}")
