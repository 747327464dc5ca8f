"""Measures what steps and page copies cost on this machine, in a few seconds, through the engine's own interface.

Pages hold nothing that matters yet: the probe runs before any session, and leaves junk in pages and host slots that
nobody has been given.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from cost_profiles.fit import fit
from cost_profiles.measurement import Copy, CopyPoint, Measurement, StepPoint
from s2l_jax.core.costs import StepShape
from s2l_jax.core.ids import BlockId, HostSlot, SessionId, SlotId
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import Chunk, HostCopy, Sample, StepPlan, StepTiming
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.protocol import Engine

_CHUNK_TOKENS = (16, 64, 256)
_BATCHES = (1, 8, 32)
_FAR_TOKENS = 2048
_COPIED_BLOCKS = (1, 8, 32)
_ROUNDS = 5
_EPOCH = 0  # the scheduler counts from 1
_PARAMS = SamplingParams(max_tokens=1)


@dataclass(slots=True)
class _Trial:
    """A plan to time, and the least seconds that it took so far: whatever disturbs makes it slower."""

    plan: StepPlan
    copy: Copy | None = None
    seconds: float = field(default=float("inf"))


def probe(
    engine: Engine, config: EngineConfig, *, budget_s: float = 4.0, now: Callable[[], float] | None = None
) -> Measurement:
    """Measures a warm engine that has no session yet. To be called by the engine's owner.

    The trials run in turns, several rounds if `budget_s` lasts. One round that is not timed comes first: the first run
    of each executable, and the first touch of memory, take two to three times as long as any later one.

    Args:
      engine: after `warmup`.
      config: its sizes.
      budget_s: when to begin no further timed round; one is run in any case.
      now: clock in seconds.

    Raises:
      InternalError: a step failed.
    """
    now = now or time.perf_counter
    trials = _trials(config)
    for trial in trials:
        engine.execute(trial.plan)
    end_s = now() + budget_s
    for _ in range(_ROUNDS):
        began_s = now()
        for trial in trials:
            _run(engine, trial, now)
        if now() + (now() - began_s) > end_s:
            break
    steps = [StepPoint(trial.plan.shape, trial.seconds) for trial in trials if trial.copy is None]
    copies = [
        CopyPoint(trial.copy, len(trial.plan.saves) + len(trial.plan.loads), trial.seconds)
        for trial in trials
        if trial.copy is not None
    ]
    return fit(steps, copies)


def _run(engine: Engine, trial: _Trial, now: Callable[[], float]) -> None:
    began_s = now()
    timing = engine.execute(trial.plan).timing
    trial.seconds = min(trial.seconds, _part(timing, trial.copy) or now() - began_s)


def _part(timing: StepTiming, copy: Copy | None) -> float:
    """The seconds that the engine measured itself, 0 if it did not."""
    return {None: timing.compute_s, "swap_out": timing.save_s, "swap_in": timing.load_s}[copy]


def _trials(config: EngineConfig) -> list[_Trial]:
    """Few prefills and decodes, near the beginning of a context and far from it; few copies of either direction."""
    far = min(_FAR_TOKENS, config.max_model_len // 2)
    room = min(config.token_budget, config.max_model_len - far)
    tokens = sorted({min(count, room) for count in _CHUNK_TOKENS})
    batches = sorted({min(count, config.max_batch, config.max_sessions) for count in _BATCHES})
    plans = [_prefill(config, count, 0) for count in tokens]
    plans += [_prefill(config, count, far) for count in tokens[-2:]]
    plans += [_decode(config, count, min(64, far)) for count in batches]
    plans += [_decode(config, count, far) for count in batches[:2]]
    return [_Trial(plan) for plan in plans] + _copies(config)


def _prefill(config: EngineConfig, tokens: int, context: int) -> StepPlan:
    chunk = _chunk(config, 0, context, tokens)
    return StepPlan(1, (chunk,), (), shape=StepShape(tokens, tokens * (context + tokens / 2)))


def _decode(config: EngineConfig, batch: int, context: int) -> StepPlan:
    chunks = tuple(_chunk(config, slot, context, 1) for slot in range(batch))
    samples = tuple(
        Sample(chunk.session_id, chunk.slot, _PARAMS, 0, context + 1, None, prompt_tokens=context) for chunk in chunks
    )
    return StepPlan(1, chunks, samples, shape=StepShape(decodes=batch, decode_context_tokens=batch * context))


def _chunk(config: EngineConfig, slot: int, start: int, tokens: int) -> Chunk:
    blocks = -(-(start + tokens) // config.block_size)
    table = (np.arange(blocks, dtype=np.int32) + slot * blocks) % config.num_blocks
    ids = np.arange(tokens, dtype=np.int32) % 97
    return Chunk(SessionId(f"probe-{slot}"), SlotId(slot), start, ids, table)


def _copies(config: EngineConfig) -> list[_Trial]:
    """Saves first, so that each load finds its slot filled."""
    room = min(config.host_blocks, config.num_blocks)
    counts: Sequence[int] = sorted({min(count, room) for count in _COPIED_BLOCKS}) if room else ()
    trials = []
    for count in counts:
        pages = tuple(HostCopy(BlockId(index), HostSlot(index), _EPOCH) for index in range(count))
        trials.append(_Trial(StepPlan(1, (), (), saves=pages), "swap_out"))
        trials.append(_Trial(StepPlan(1, (), (), loads=pages), "swap_in"))
    return trials
