"""What one engine step must do, and what came of it: the contract between scheduler and engine."""

from dataclasses import dataclass

import numpy as np

from s2l_jax.core.ids import SessionId, SlotId
from s2l_jax.core.params import SamplingParams


@dataclass(frozen=True, slots=True)
class Chunk:
    """A range of one session's tokens to run through the model.

    The engine computes KV for positions `start .. start + len(tokens)`, attends to positions before them through
    `block_table`, and keeps the final hidden state of the last token in `slot`, so that a later sample needs no
    recomputation.

    Attributes:
      session_id: whose tokens these are.
      slot: the session's row in the per-session device buffers, in `0 .. max_sessions`.
      start: position of the first token.
      tokens: int32 `[n]`, n >= 1; a copy, never changed after planning.
      block_table: int32 `[ceil((start + n) / block_size)]`, block ids in position order; a copy, likewise.
    """

    session_id: SessionId
    slot: SlotId
    start: int
    tokens: np.ndarray
    block_table: np.ndarray

    @property
    def end(self) -> int:
        """Position after the last token."""
        return self.start + len(self.tokens)


@dataclass(frozen=True, slots=True)
class Sample:
    """One token to sample from the hidden state kept in `slot` (after the chunks of the same step have run).

    Attributes:
      session_id: whose token this is.
      slot: the session's row in the per-session device buffers.
      params: the session's sampling parameters.
      seed: the session's seed, given or drawn; with `position` it determines the random draw.
      position: position that the sampled token will take, that is the number of tokens before it.
      history: int32 `[position]` prompt and output so far, only if `params.has_penalties`, else None.
      prompt_tokens: how many of `history` belong to the prompt.
    """

    session_id: SessionId
    slot: SlotId
    params: SamplingParams
    seed: int
    position: int
    history: np.ndarray | None
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One engine step: chunks run first, then samples are drawn.

    Chunks of one token (decodes, mostly) come first, then longer ones, each part in scheduling order. The total of
    tokens never exceeds the budget, the number of chunks and of samples never exceeds `max_batch`. Either part may be
    empty, not both.
    """

    step_id: int
    chunks: tuple[Chunk, ...]
    samples: tuple[Sample, ...]

    @property
    def tokens(self) -> int:
        """Tokens that run through the model in this step."""
        return sum(len(chunk.tokens) for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A sampled token.

    Attributes:
      token_id: the token, or -1 if the logits were not finite: the session cannot go on.
      logprob: its log probability under the model (before temperature and filters), None if not asked for.
      top: `(token id, logprob)` of the most likely tokens, most likely first; as many as `params.logprobs`.
    """

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step gave: one token for each entry of `plan.samples`, in the same order."""

    plan: StepPlan
    tokens: tuple[SampledToken, ...]
