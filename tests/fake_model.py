"""What the fake engine computes in place of a model: 64-bit hashes of everything before a position."""

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache

import numpy as np

from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import Sample, SampledToken
from tests.plan_check import require

MASK = (1 << 64) - 1
WEIGHT = 0x9E3779B97F4A7C15
GREEDY = SamplingParams()
BROKEN_SEED = 13
"""Sessions sampling with this seed have no finite logits now and then."""


def mix(value: int) -> int:
    """Scrambles 64 bits (the finaliser of splitmix64)."""
    value &= MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


@lru_cache(1 << 12)
def entry_of(token: int, position: int, digest: int) -> int:
    """The number a position leaves in the pool, given the digest of all positions before it."""
    return mix(digest ^ mix((token + 1) * 0x1000003 + position))


def weight(position: int) -> int:
    """An odd multiplier per position, so that swapped pages change the digest."""
    return (2 * position + 1) * WEIGHT & MASK


def weights(count: int) -> np.ndarray:
    """`weight` of the first `count` positions, uint64."""
    return (np.uint64(2) * np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(WEIGHT)


def entries_of(tokens: Sequence[int]) -> np.ndarray:
    """The numbers that tokens leave in the pool, uint64 `[len(tokens)]`."""
    digest, entries = 0, np.empty(len(tokens), np.uint64)
    for position, token in enumerate(tokens):
        entries[position] = entry = entry_of(token, position, digest)
        digest = (digest + weight(position) * entry) & MASK
    return entries


def digest_of(tokens: Sequence[int]) -> int:
    """The digest of all tokens, which a session's slot keeps."""
    return int((entries_of(tokens) * weights(len(tokens))).sum(dtype=np.uint64))


def next_token(hidden: int, sample: Sample, alphabet: Sequence[int]) -> SampledToken:
    params = sample.params
    value = hidden
    if not params.is_greedy:
        value = mix(value ^ mix(sample.seed * 31 + sample.position))
        if sample.seed == BROKEN_SEED and value % 4 == 0:
            return SampledToken(-1)
    if params.has_penalties:
        history = () if sample.history is None else tuple(sample.history.tolist())
        known = len(history) == sample.position and min(history) >= 0
        require(known, f"{sample.session_id}: penalties need the history of all {sample.position} tokens")
        value = mix(value ^ mix(hash((history, sample.prompt_tokens))))
    if sample.mask is not None:
        alphabet = _allowed(alphabet, sample.mask)
    token = int(alphabet[mix(value + 1) % len(alphabet)])
    if params.logprobs is None:
        return SampledToken(token)
    top = tuple((int(alphabet[(token + i) % len(alphabet)]), -0.5 * (i + 1)) for i in range(params.logprobs))
    return SampledToken(token, -0.5, top)


def reference_output(
    prompt_tokens: Sequence[int],
    n: int,
    *,
    alphabet: Sequence[int] = range(256),
    params: SamplingParams = GREEDY,
    seed: int = 0,
    stop_token_ids: Collection[int] = (),
    mask: Callable[[np.ndarray], np.ndarray] | None = None,
) -> list[int]:
    """What a fresh `FakeEngine` outputs for a prompt: `n` tokens, or up to the first of `stop_token_ids` or -1.

    With a constraint, `mask` gives the mask for an output so far.
    """
    tokens = [int(token) for token in prompt_tokens]
    if not tokens:
        raise ValueError("the prompt is empty")
    output: list[int] = []
    digest, position = 0, 0
    while len(output) < n:
        for token in tokens[position:]:
            digest = (digest + weight(position) * entry_of(token, position, digest)) & MASK
            position += 1
        history = np.asarray(tokens, np.int32) if params.has_penalties else None
        allowed = None if mask is None else mask(np.asarray(output, np.int32))
        sample = Sample("reference", 0, params, seed, position, history, len(prompt_tokens), allowed)  # type: ignore[arg-type]
        token = next_token(digest, sample, alphabet).token_id
        output.append(token)
        tokens.append(token)
        if token in stop_token_ids or token < 0:
            break
    return output


def _allowed(alphabet: Sequence[int], mask: np.ndarray) -> Sequence[int]:
    """The letters that a mask lets come; if there are none, whatever else it does."""
    may_come = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()
    return [token for token in alphabet if token in may_come] or may_come
