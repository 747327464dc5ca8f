"""Steps and their results as messages (`serving/protos/s2l/v1/engine.proto`)."""

from collections.abc import Iterable, Sequence

import numpy as np

from s2l_jax.core.ids import BlockId, HostSlot, SessionId, SlotId
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import Chunk, HostCopy, PageCopy, Sample, SampledToken, StepPlan, StepResult, StepTiming
from serving.protos.s2l.v1 import engine_pb2 as pb
from serving.remote.offer import Offer

_INT32 = np.dtype("<i4")


def ints_to_bytes(values: Sequence[int] | np.ndarray) -> bytes:
    """Integers as int32, little-endian."""
    return np.asarray(values, _INT32).tobytes()


def ints_of(content: bytes) -> np.ndarray:
    """The other way round, int32 `[n]`."""
    return np.frombuffer(content, _INT32).astype(np.int32, copy=False)


def step_message(plan: StepPlan, attempt: int) -> pb.Step:
    """A plan, for the engine."""
    return pb.Step(
        step_id=plan.step_id,
        attempt=attempt,
        chunks=[
            pb.StepChunk(
                session_id=chunk.session_id,
                slot=chunk.slot,
                start=chunk.start,
                tokens=ints_to_bytes(chunk.tokens),
                block_table=ints_to_bytes(chunk.block_table),
            )
            for chunk in plan.chunks
        ],
        samples=[_sample_message(sample) for sample in plan.samples],
        saves=_rows_to_bytes(plan.saves),
        loads=_rows_to_bytes(plan.loads),
        copies=_rows_to_bytes(plan.copies),
    )


def plan_of(message: pb.Step) -> StepPlan:
    """The plan that a message brings."""
    return StepPlan(
        message.step_id,
        tuple(
            Chunk(
                SessionId(chunk.session_id),
                SlotId(chunk.slot),
                chunk.start,
                ints_of(chunk.tokens),
                ints_of(chunk.block_table),
            )
            for chunk in message.chunks
        ),
        tuple(_sample_of(sample) for sample in message.samples),
        _host_copies_of(message.saves),
        _host_copies_of(message.loads),
        tuple(PageCopy(BlockId(a), BlockId(b)) for a, b in ints_of(message.copies).reshape(-1, 2).tolist()),
    )


def done_message(result: StepResult) -> pb.StepDone:
    """A result, for the orchestrator."""
    timing = result.timing
    return pb.StepDone(
        step_id=result.plan.step_id,
        tokens=[_token_message(token) for token in result.tokens],
        compute_s=timing.compute_s,
        save_s=timing.save_s,
        load_s=timing.load_s,
    )


def result_of(message: pb.StepDone, plan: StepPlan) -> StepResult:
    """The result that a message brings for a plan."""
    timing = StepTiming(message.compute_s, message.save_s, message.load_s)
    return StepResult(plan, tuple(_token_of(token) for token in message.tokens), timing)


def _sample_message(sample: Sample) -> pb.StepSample:
    params = sample.params
    return pb.StepSample(
        session_id=sample.session_id,
        slot=sample.slot,
        params=pb.SampleParams(
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
            repetition_penalty=params.repetition_penalty,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            logprobs=params.logprobs,
        ),
        seed=sample.seed,
        position=sample.position,
        history=None if sample.history is None else ints_to_bytes(sample.history),
        prompt_tokens=sample.prompt_tokens,
        mask=None if sample.mask is None else ints_to_bytes(sample.mask),
    )


def _sample_of(message: pb.StepSample) -> Sample:
    params = message.params
    return Sample(
        SessionId(message.session_id),
        SlotId(message.slot),
        SamplingParams(
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
            repetition_penalty=params.repetition_penalty,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            logprobs=params.logprobs if params.HasField("logprobs") else None,
        ),
        message.seed,
        message.position,
        ints_of(message.history) if message.HasField("history") else None,
        message.prompt_tokens,
        ints_of(message.mask) if message.HasField("mask") else None,
    )


def _token_message(token: SampledToken) -> pb.SampledTokenReply:
    return pb.SampledTokenReply(
        token_id=token.token_id,
        logprob=token.logprob,
        top_ids=[token_id for token_id, _ in token.top],
        top_logprobs=[logprob for _, logprob in token.top],
    )


def _token_of(message: pb.SampledTokenReply) -> SampledToken:
    logprob = message.logprob if message.HasField("logprob") else None
    return SampledToken(message.token_id, logprob, tuple(zip(message.top_ids, message.top_logprobs, strict=True)))


def _rows_to_bytes(rows: Iterable[tuple[int, ...]]) -> bytes:
    return ints_to_bytes([number for row in rows for number in row])


def _host_copies_of(content: bytes) -> tuple[HostCopy, ...]:
    return tuple(HostCopy(BlockId(a), HostSlot(b), epoch) for a, b, epoch in ints_of(content).reshape(-1, 3).tolist())


def offer_message(offer: Offer) -> pb.PageOffer:
    """Pages that can be pulled, for whoever is to pull them."""
    return pb.PageOffer(address=offer.address, key=offer.key, pieces=offer.pieces, shape=offer.shape, dtype=offer.dtype)


def offer_of(message: pb.PageOffer) -> Offer:
    """What a message offers."""
    return Offer(message.address, message.key, message.pieces, tuple(message.shape), message.dtype)
