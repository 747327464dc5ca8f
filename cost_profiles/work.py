"""The work of one step in enough detail to predict padding: each chunk and each context, where a shape has sums."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from s2l_jax.core.costs import StepShape
from s2l_jax.core.errors import InvalidArgument
from s2l_jax.core.ids import SessionId, SlotId
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import Chunk, Sample, StepPlan
from s2l_jax.engine.config import EngineConfig

_PARAMS = SamplingParams(max_tokens=1)
_VOCABULARY = 97  # any will do: no weight is looked up more than once a token


@dataclass(frozen=True, slots=True)
class Work:
    """What one step runs.

    Attributes:
      chunks: tokens and context of each chunk longer than one token; tokens before it are its context.
      decodes: context of each chunk of one token.
      samples: rows that are sampled.

    Raises:
      InvalidArgument: a chunk is too short, or a number is negative.
    """

    chunks: tuple[tuple[int, int], ...] = ()
    decodes: tuple[int, ...] = ()
    samples: int = 0

    def __post_init__(self) -> None:
        if any(tokens < 2 or context < 0 for tokens, context in self.chunks):
            raise InvalidArgument(f"chunks are {self.chunks}, but each needs two tokens or more, and a context")
        if self.samples < 0 or min(self.decodes, default=0) < 0:
            raise InvalidArgument(f"decodes are {self.decodes} and samples {self.samples}, but none may be negative")

    @classmethod
    def of(cls, plan: StepPlan) -> Self:
        """The work of a plan."""
        sizes = [(len(chunk.tokens), chunk.start) for chunk in plan.chunks]
        return cls(
            tuple(size for size in sizes if size[0] > 1),
            tuple(context for tokens, context in sizes if tokens == 1),
            len(plan.samples),
        )

    @property
    def tokens(self) -> int:
        """Tokens that run through the model."""
        return sum(tokens for tokens, _ in self.chunks) + len(self.decodes)

    @property
    def shape(self) -> StepShape:
        """As the scheduler sums it up."""
        return StepShape(
            sum(tokens for tokens, _ in self.chunks),
            sum(tokens * (context + tokens / 2) for tokens, context in self.chunks),
            len(self.decodes),
            sum(self.decodes),
        )

    @property
    def kind(self) -> str:
        """`prefill`, `decode`, `mixed` or `sample`."""
        if self.chunks:
            return "mixed" if self.decodes else "prefill"
        return "decode" if self.decodes else "sample"

    def plan(self, config: EngineConfig) -> StepPlan:
        """A plan that does this work on pages that hold nothing which matters. Samples are greedy.

        Sessions get pages one after the other, and the first ones again once all are given: nobody reads what comes
        of it.

        Raises:
          InvalidArgument: the engine is too small for it.
        """
        sessions = max(len(self.chunks) + len(self.decodes), self.samples)
        longest = max([*(sum(size) for size in self.chunks), *(context + 1 for context in self.decodes)], default=0)
        limits = (
            ("tokens", self.tokens, config.token_budget),
            ("sessions", sessions, min(config.max_batch, config.max_sessions)),
            ("tokens of one session", longest, config.max_model_len),
        )
        for what, wanted, limit in limits:
            if wanted > limit:
                raise InvalidArgument(f"a step of {wanted} {what} is too large for an engine of {limit}: {self}")
        sizes = [*((1, context) for context in self.decodes), *self.chunks]
        chunks: list[Chunk] = []
        first_block = 0
        for slot, (tokens, context) in enumerate(sizes):
            chunk = _chunk(slot, tokens, context, first_block, config)
            first_block += len(chunk.block_table)
            chunks.append(chunk)
        samples = tuple(_sample(slot, chunks) for slot in range(self.samples))
        return StepPlan(1, tuple(chunks), samples, shape=self.shape)


def fits(work: Work, config: EngineConfig) -> bool:
    """Whether an engine is large enough for it."""
    try:
        work.plan(config)
    except InvalidArgument:
        return False
    return True


def _chunk(slot: int, tokens: int, context: int, first_block: int, config: EngineConfig) -> Chunk:
    blocks = -(-(context + tokens) // config.block_size)
    table = ((first_block + np.arange(blocks)) % config.num_blocks).astype(np.int32)
    ids = np.arange(tokens, dtype=np.int32) % _VOCABULARY
    return Chunk(SessionId(f"measured-{slot}"), SlotId(slot), context, ids, table)


def _sample(slot: int, chunks: Sequence[Chunk]) -> Sample:
    """Of the session in this slot, at the end of what it runs; a session that runs nothing has run it before."""
    end = chunks[slot].end if slot < len(chunks) else 1
    return Sample(SessionId(f"measured-{slot}"), SlotId(slot), _PARAMS, 0, end, None, prompt_tokens=end)
