"""What one engine step must do, and what came of it: the contract between scheduler and engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from s2l_jax.core.costs import NO_WORK, StepShape
from s2l_jax.core.ids import BlockId, HostSlot, SessionId, SlotId
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.records import fields_of

LAST_SAMPLED = -1
"""In `Chunk.tokens`: the token that this session sampled last, which the host may not know yet."""

MASK_WORD_BITS = 32
"""Of a word of `Sample.mask`."""


class Chunk(NamedTuple):
    """A range of one session's tokens to run through the model.

    The engine computes KV for positions `start .. start + len(tokens)`, attends to positions before them through
    `block_table`, and keeps the final hidden state of the last token in `slot`, so that a later sample needs no
    recomputation.

    Attributes:
      session_id: whose tokens these are.
      slot: the session's row in the per-session device buffers, in `0 .. max_sessions`.
      start: position of the first token.
      tokens: int32 `[n]`, n >= 1; never changed after planning. Its last one may be `LAST_SAMPLED`: the engine takes
        what was sampled last in this `slot`, by this step's predecessors.
      block_table: int32 `[>= ceil((start + n) / block_size)]`, block ids in position order, never changed after
        planning. Blocks past the chunk's end are not touched by it.
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


class Sample(NamedTuple):
    """One token to sample from the hidden state kept in `slot` (after the chunks of the same step have run).

    The engine also keeps the token for `slot`, so that a later chunk can name it `LAST_SAMPLED`.

    Attributes:
      session_id: whose token this is.
      slot: the session's row in the per-session device buffers.
      params: the session's sampling parameters.
      seed: the session's seed, given or drawn; with `position` it determines the random draw.
      position: position that the sampled token will take, that is the number of tokens before it.
      history: int32 `[position]` prompt and output so far, only if `params.has_penalties`, else None.
      prompt_tokens: how many of `history` belong to the prompt.
      mask: int32 `[words]`, only if `params.constraint`: the tokens that may come, bit `i % 32` of word `i // 32` for
        token `i`; those beyond its end may not. The scheduler, which knows no grammars, leaves it to whoever submits
        the plan. None lets all tokens come.
    """

    session_id: SessionId
    slot: SlotId
    params: SamplingParams
    seed: int
    position: int
    history: np.ndarray | None
    prompt_tokens: int
    mask: np.ndarray | None = None


class PageCopy(NamedTuple):
    """Copies the page of block `source` to that of block `target`, both on the device."""

    source: BlockId
    target: BlockId


class HostCopy(NamedTuple):
    """Copies one page between the device and the host pool.

    Attributes:
      block: the device's side.
      slot: the host's side, in `0 .. host_blocks`.
      epoch: counts the contents the slot has had. A save names the epoch it starts, a load the epoch it wants: if the
        engine finds another one there, bookkeeping and memory have come apart, and the step must fail.
    """

    block: BlockId
    slot: HostSlot
    epoch: int


class StepPlan(NamedTuple):
    """One engine step.

    In this order, or so that nobody can tell: `saves` read their pages, `loads` and `copies` write theirs, chunks run,
    samples are drawn. No page is the target of two of them, no copy reads a page that this plan writes, no load reads a
    slot that this plan saves to. Steps run in the order of their planning, so a slot saved to by one step may be loaded
    from by the next.

    Chunks of one token (decodes, mostly) come first, then longer ones, each part in scheduling order. The total of
    tokens never exceeds the budget, the number of chunks and of samples never exceeds `max_batch`. Any part may be
    empty, but not all.

    Attributes:
      step_id: counts up from 1.
      chunks: what runs through the model.
      samples: what is sampled after that.
      saves: pages to copy from the device to the host.
      loads: pages to copy from the host to the device.
      copies: pages to copy within the device.
      shape: how much work it is, for the cost model.
    """

    step_id: int
    chunks: Sequence[Chunk]
    samples: Sequence[Sample]
    saves: tuple[HostCopy, ...] = ()
    loads: tuple[HostCopy, ...] = ()
    copies: tuple[PageCopy, ...] = ()
    shape: StepShape = NO_WORK

    @property
    def tokens(self) -> int:
        """Tokens that run through the model in this step."""
        return sum(len(tokens) for _, _, _, tokens, _ in fields_of(self.chunks))


class SampledToken(NamedTuple):
    """A sampled token.

    Attributes:
      token_id: the token, or -1 if the logits were not finite: the session cannot go on.
      logprob: its log probability under the model (before temperature and filters), None if not asked for.
      top: `(token id, logprob)` of the most likely tokens, most likely first; as many as `params.logprobs`.
    """

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class StepTiming(NamedTuple):
    """Seconds that parts of a step took; 0 for parts that it did not have, or that were not measured.

    Attributes:
      compute_s: chunks and samples, on the device.
      save_s: page copies from the device to the host.
      load_s: page copies from the host to the device.
    """

    compute_s: float = 0.0
    save_s: float = 0.0
    load_s: float = 0.0


NOT_TIMED = StepTiming()


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step gave.

    Attributes:
      plan: the step.
      tokens: one for each entry of `plan.samples`, in the same order.
      timing: how long it took.
    """

    plan: StepPlan
    tokens: tuple[SampledToken, ...]
    timing: StepTiming = NOT_TIMED
