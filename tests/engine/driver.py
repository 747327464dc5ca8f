"""Drives an engine without a scheduler: sequences with blocks and slots of the test's choosing."""

from collections.abc import Sequence

import numpy as np

from s2l_jax.core.ids import SessionId, SlotId
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import LAST_SAMPLED, Chunk, Sample, SampledToken, StepPlan
from s2l_jax.engine.protocol import Engine

GREEDY = SamplingParams(logprobs=5)


class Stream:
    """A session: its tokens so far, how many of them have run, its blocks and its slot."""

    def __init__(self, tokens: Sequence[int], blocks: Sequence[int], slot: int = 0, seed: int = 0) -> None:
        self.tokens = list(tokens)
        self.prompt_tokens = len(tokens)
        self.blocks = np.asarray(blocks, np.int32)
        self.slot = SlotId(slot)
        self.seed = seed
        self.computed = 0
        self.sampled: list[SampledToken] = []

    def chunk(self, length: int, block_size: int = 4) -> Chunk:
        """The next tokens to run; they count as computed."""
        start, end = self.computed, self.computed + length
        self.computed = end
        tokens = np.asarray(self.tokens[start:end], np.int32)
        return Chunk(self.name, self.slot, start, tokens, self.blocks[: -(-end // block_size)])

    def sample(self, params: SamplingParams = GREEDY) -> Sample:
        """The token behind the last one."""
        history = np.asarray(self.tokens, np.int32) if params.has_penalties else None
        return Sample(self.name, self.slot, params, self.seed, len(self.tokens), history, self.prompt_tokens)

    def take(self, token: SampledToken) -> None:
        """Appends a sampled token."""
        self.sampled.append(token)
        self.tokens.append(token.token_id)

    @property
    def name(self) -> SessionId:
        return SessionId(f"session-{self.slot}")


def prefill(engine: Engine, sequence: Stream, lengths: Sequence[int]) -> None:
    """Runs chunks of these lengths, one a step."""
    for length in lengths:
        engine.execute(StepPlan(0, (sequence.chunk(length),), ()))


def decode(engine: Engine, sequences: Sequence[Stream], steps: int, params: SamplingParams = GREEDY) -> None:
    """Samples `steps` tokens of each sequence, all of them in one batch."""
    for step in range(steps):
        chunks = tuple(sequence.chunk(1) for sequence in sequences) if step else ()
        result = engine.execute(StepPlan(step, chunks, tuple(sequence.sample(params) for sequence in sequences)))
        for sequence, token in zip(sequences, result.tokens, strict=True):
            sequence.take(token)


def same_output(one: Stream, other: Stream) -> None:
    """Fails unless the tokens are equal and their log probabilities close."""
    assert one.tokens[one.prompt_tokens :] == other.tokens[other.prompt_tokens :]
    for a, b in zip(one.sampled, other.sampled, strict=True):
        assert a.logprob is not None
        assert b.logprob is not None
        np.testing.assert_allclose([a.logprob, *(v for _, v in a.top)], [b.logprob, *(v for _, v in b.top)], atol=1e-4)


def decode_ahead(engine: Engine, sequences: Sequence[Stream], steps: int, params: SamplingParams = GREEDY) -> None:
    """As `decode`, but each step is submitted before the one before it is collected, so without knowing its tokens."""
    for step in range(steps + 1):
        if step < steps:
            unknown = [len(sequence.tokens) - sequence.prompt_tokens < step for sequence in sequences]
            for sequence, is_unknown in zip(sequences, unknown, strict=True):
                if is_unknown:
                    sequence.tokens.append(LAST_SAMPLED)
            chunks = tuple(sequence.chunk(1) for sequence in sequences) if step else ()
            engine.submit(StepPlan(step, chunks, tuple(sequence.sample(params) for sequence in sequences)))
        if step:
            for sequence, token in zip(sequences, engine.collect().tokens, strict=True):
                sequence.sampled.append(token)
                place = sequence.prompt_tokens + step - 1
                sequence.tokens[place : place + 1] = [token.token_id]
