"""What the full measurement runs: steps and copies of all sizes that an engine may be given."""

from collections.abc import Iterable, Iterator, Sequence

from cost_profiles.measurement import Copy
from cost_profiles.trial import Trial, copies
from cost_profiles.work import Work, fits
from s2l_jax.engine.buckets import token_buckets
from s2l_jax.engine.config import EngineConfig

_COPIES: tuple[Copy, ...] = ("swap_out", "swap_in", "handoff")
_COPIED_BLOCKS = (1, 4, 8, 16, 32, 64, 128)
_BESIDE_BLOCKS = 32
_LEAST_CHUNK_TOKENS = 2
_FAR_SHARES = (1 / 8, 1 / 4, 1 / 2, 7 / 8)  # of the longest context
_NEAR_TOKENS = 64


def grid(config: EngineConfig) -> list[Trial]:
    """All trials of an engine."""
    works = dict.fromkeys((*_prefills(config), *_decodes(config), *_mixed(config), *_samples(config)))
    steps = [Trial.of_work(work, config) for work in works if fits(work, config)]
    return steps + copies(_COPIED_BLOCKS, _COPIES, config) + _both(config)


def _prefills(config: EngineConfig) -> Iterator[Work]:
    """Chunks of every bucket without a context, of every other one with contexts of all lengths; several chunks."""
    buckets = [bucket for bucket in token_buckets(config.token_budget) if bucket >= _LEAST_CHUNK_TOKENS]
    for tokens in buckets:
        yield Work(((tokens, 0),))
    for tokens in buckets[::-2]:
        for context in _contexts(config):
            yield Work(((tokens, context),))
    near = _contexts(config)[0]
    for tokens, chunks in ((16, 4), (16, 8), (48, 2), (100, 4)):
        yield Work(((tokens, near),) * chunks)
        yield Work(((tokens, 0),) * chunks, samples=chunks)


def _decodes(config: EngineConfig) -> Iterator[Work]:
    """Batches of contexts that are all alike, and of contexts that differ, as those of a server do."""
    for batch in _batches(config.max_batch):
        for context in (_NEAR_TOKENS, *_contexts(config)):
            yield Work(decodes=(context,) * batch, samples=batch)
    near, far, *_ = _contexts(config)
    for batch in _batches(config.max_batch)[2:]:
        yield Work(decodes=(*(_NEAR_TOKENS,) * (batch - 1), far), samples=batch)
        yield Work(decodes=tuple(_spread(_NEAR_TOKENS, near, batch)), samples=batch)


def _mixed(config: EngineConfig) -> Iterator[Work]:
    """Chunks together with decodes, the chunk sampled or not."""
    near, far, *_ = _contexts(config)
    for tokens in (16, 64, 200, config.token_budget):
        for batch in (1, 4, 16):
            chunk = (min(tokens, config.token_budget - batch), near)
            if chunk[0] >= _LEAST_CHUNK_TOKENS:
                yield Work((chunk,), (near,) * batch, batch)
    yield Work(((32, 0), (32, near)), (near, far), 3)
    yield Work(((128, near),), (far,) * 4, 5)


def _samples(config: EngineConfig) -> Iterator[Work]:
    """Sessions that only sample, and chunks whose last token is sampled."""
    for rows in _batches(config.max_batch):
        yield Work(samples=rows)
    yield Work(((64, 0),), samples=1)
    yield Work(((config.token_budget, 0),), samples=1)


def _both(config: EngineConfig) -> list[Trial]:
    """Steps with and without copies in either direction: do copies run beside the computation?"""
    blocks = min(_BESIDE_BLOCKS, config.host_blocks, config.num_blocks)
    near = _contexts(config)[0]
    works = [Work(decodes=(_NEAR_TOKENS,), samples=1), Work(((64, near),)), Work(((256, near),))]
    return [
        Trial.of_both(work, "swap_out" if copied else "swap_in", count, config)
        for work in works
        if blocks and fits(work, config)
        for copied, count in ((True, 0), (True, blocks), (False, blocks))
    ]


def _contexts(config: EngineConfig) -> list[int]:
    return [max(1, int(share * (config.max_model_len - config.token_budget))) for share in _FAR_SHARES]


def _batches(limit: int) -> Sequence[int]:
    return [size for size in _powers_of_two(limit) if size < limit] + [limit]


def _powers_of_two(limit: int) -> Iterable[int]:
    return (1 << exponent for exponent in range(limit.bit_length()))


def _spread(least: int, most: int, count: int) -> list[int]:
    return [least + (most - least) * index // max(1, count - 1) for index in range(count)]
