"""Sampling inputs and outputs as single int32 arrays; floats travel as their bits.

One array each way keeps a step at one transfer in and one out, whatever its samples ask for.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int

from s2l_jax.core.errors import InternalError
from s2l_jax.core.plan import Sample, SampledToken
from s2l_jax.core.records import fields_of
from s2l_jax.engine.buckets import Buckets, SampleShape, Variant
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.sampling import Sampled, SampleRows

_ROW = np.dtype(
    [
        ("slot", np.int32),
        ("position", np.int32),
        ("seed_high", np.uint32),
        ("seed_low", np.uint32),
        ("top_k", np.int32),
        ("logprobs", np.int32),
        ("prompt_tokens", np.int32),
        ("constrained", np.int32),
        ("temperature", np.float32),
        ("top_p", np.float32),
        ("min_p", np.float32),
        ("repetition", np.float32),
        ("presence", np.float32),
        ("frequency", np.float32),
    ]
)
_COLUMN = {name: index for index, name in enumerate(_ROW.names or ())}
_MAX_TOP_K = 1 << 24  # counted in float32, exact up to here
_WORD = (1 << 32) - 1

ROW_WORDS = _ROW.itemsize // 4


class SampleGroup(NamedTuple):
    """Samples that run together.

    Attributes:
      shape: the executable they need.
      indices: which samples of the plan they are.
    """

    shape: SampleShape
    indices: list[int]


def group_samples(samples: Sequence[Sample], buckets: Buckets) -> Iterator[SampleGroup]:
    """Splits samples so that those with penalties, which need a history, run by themselves."""
    plain = [index for index, (_, _, params, *_) in enumerate(fields_of(samples)) if not params.has_penalties]
    if plain:
        simple = all(_is_simple(samples[i]) for i in plain)
        yield SampleGroup(buckets.sample(len(plain), Variant.GREEDY if simple else Variant.FULL), plain)
    if len(plain) == len(samples):
        return
    penalised = [index for index, sample in enumerate(samples) if sample.params.has_penalties]
    most = buckets.max_rows(Variant.PENALTIES)
    for first in range(0, len(penalised), most):
        part = penalised[first : first + most]
        yield SampleGroup(buckets.sample(len(part), Variant.PENALTIES), part)


def pack_samples(samples: Sequence[Sample], shape: SampleShape, config: EngineConfig) -> np.ndarray:
    """Lays samples out for `unpack_rows`; padding rows are greedy, on a session slot outside the buffers.

    Returns:
      int32 `[rows, ROW_WORDS]`, a new array.

    Raises:
      InternalError: a slot is outside the session buffer.
    """
    packed = np.zeros(shape.rows, _ROW)
    packed["slot"] = config.max_sessions
    packed["top_p"] = packed["repetition"] = 1.0
    for row, sample in enumerate(samples):
        params = sample.params
        if not 0 <= sample.slot < config.max_sessions:
            raise InternalError(f"session {sample.session_id}: slot {sample.slot} is outside 0..{config.max_sessions}")
        packed[row] = (
            sample.slot,
            sample.position,
            sample.seed >> 32 & _WORD,
            sample.seed & _WORD,
            min(params.top_k, _MAX_TOP_K),
            params.logprobs is not None,
            sample.prompt_tokens,
            sample.mask is not None,
            params.temperature,
            params.top_p,
            params.min_p,
            params.repetition_penalty,
            params.presence_penalty,
            params.frequency_penalty,
        )
    return packed.view(np.int32).reshape(shape.rows, ROW_WORDS)


def pack_history(samples: Sequence[Sample], shape: SampleShape) -> np.ndarray:
    """Histories of samples with penalties, int32 `[rows, history]`, padded with zeros.

    Raises:
      InternalError: a history is missing, or not as long as the sample's position says.
    """
    packed = np.zeros((shape.rows, shape.history), np.int32)
    for row, sample in zip(packed, samples, strict=False):
        history = sample.history
        if history is None or len(history) != sample.position or len(history) > shape.history:
            raise InternalError(
                f"session {sample.session_id}: history of {None if history is None else len(history)} tokens for a "
                f"sample at position {sample.position}, at most {shape.history}"
            )
        row[: len(history)] = history
    return packed


def pack_masks(samples: Sequence[Sample], shape: SampleShape, words: int) -> np.ndarray | None:
    """Masks of samples that have one, int32 `[rows, words]`, zeros for others; None if none has."""
    if all(sample.mask is None for sample in samples):
        return None
    packed = np.zeros((shape.rows, words), np.int32)
    for row, sample in zip(packed, samples, strict=False):
        if sample.mask is not None:
            count = min(words, len(sample.mask))
            row[:count] = sample.mask[:count]
    return packed


def unpack_rows(packed: Int[Array, "rows words"]) -> tuple[Int[Array, "rows"], SampleRows]:
    """Session slots and parameters from what `pack_samples` laid out; to be traced."""

    def word(name: str) -> Array:
        return packed[:, _COLUMN[name]]

    def real(name: str) -> Array:
        return lax.bitcast_convert_type(word(name), jnp.float32)

    seed = lax.bitcast_convert_type(jnp.stack([word("seed_high"), word("seed_low")], axis=-1), jnp.uint32)
    rows = SampleRows(
        temperature=real("temperature"),
        top_k=word("top_k"),
        top_p=real("top_p"),
        min_p=real("min_p"),
        seed=seed,
        position=word("position"),
        logprobs=word("logprobs") > 0,
        repetition=real("repetition"),
        presence=real("presence"),
        frequency=real("frequency"),
        prompt_tokens=word("prompt_tokens"),
        constrained=word("constrained") > 0,
    )
    return word("slot"), rows


def pack_sampled(sampled: Sampled) -> Int[Array, "rows words"]:
    """Token, its log probability, most likely tokens, their log probabilities, side by side; to be traced."""

    def bits(values: Array) -> Array:
        return lax.bitcast_convert_type(values, jnp.int32)

    single = jnp.stack([sampled.token, bits(sampled.logprob)], axis=-1)
    return jnp.concatenate([single, sampled.top_token, bits(sampled.top_logprob)], axis=-1)


def unpack_sampled(packed: np.ndarray, samples: Sequence[Sample]) -> list[SampledToken]:
    """Reads what a sampling executable returned: `[rows]` of tokens, or `[rows, words]` from `pack_sampled`."""
    if packed.ndim == 1:
        return [SampledToken(token) for token in packed[: len(samples)].tolist()]
    top = (packed.shape[1] - 2) // 2
    reals = packed.view(np.float32)
    tokens = []
    for sample, words, real in zip(samples, packed, reals, strict=False):
        if sample.params.logprobs is None or words[0] < 0:
            tokens.append(SampledToken(int(words[0])))
            continue
        wanted = min(sample.params.logprobs, top)
        best = zip(words[2 : 2 + wanted].tolist(), real[2 + top : 2 + top + wanted].tolist(), strict=True)
        tokens.append(SampledToken(int(words[0]), float(real[1]), tuple(best)))
    return tokens


def _is_simple(sample: Sample) -> bool:
    """True if the most likely token is all there is to know."""
    return sample.params.is_greedy and sample.params.logprobs is None and sample.mask is None
