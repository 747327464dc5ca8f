"""Measures what steps and page copies cost on this machine, in a few seconds, through the engine's own interface.

This is for the scheduler of a server at its first start. `cost_profiles.rounds` takes minutes and is for profiles.
"""

import time
from collections.abc import Callable

from cost_profiles.fit import fit
from cost_profiles.measurement import CopyPoint, Measurement, StepPoint
from cost_profiles.trial import Trial, copies
from cost_profiles.work import Work
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.protocol import Engine

_CHUNK_TOKENS = (16, 64, 256)
_BATCHES = (1, 8, 32)
_FAR_TOKENS = 2048
_COPIED_BLOCKS = (1, 8, 32)
_ROUNDS = 5


def probe(
    engine: Engine, config: EngineConfig, *, budget_s: float = 4.0, now: Callable[[], float] | None = None
) -> Measurement:
    """Measures a warm engine that has no session yet. To be called by the engine's owner.

    The trials run in turns, several rounds if `budget_s` lasts, and the least time of each counts: whatever disturbs
    makes it slower. One round that is not timed comes first: the first run of each executable, and the first touch of
    memory, take two to three times as long as any later one.

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
        trial.run(engine, now)
    least = [float("inf")] * len(trials)
    end_s = now() + budget_s
    for _ in range(_ROUNDS):
        began_s = now()
        least = [min(seconds, trial.run(engine, now)) for seconds, trial in zip(least, trials, strict=True)]
        if now() + (now() - began_s) > end_s:
            break
    timed = list(zip(trials, least, strict=True))
    return fit(
        [StepPoint(trial.work.shape, seconds) for trial, seconds in timed if trial.work is not None],
        [CopyPoint(trial.copy, trial.blocks, seconds) for trial, seconds in timed if trial.copy is not None],
    )


def _trials(config: EngineConfig) -> list[Trial]:
    """Few prefills and decodes, near the beginning of a context and far from it; few copies of either direction."""
    far = min(_FAR_TOKENS, config.max_model_len // 2)
    room = min(config.token_budget, config.max_model_len - far)
    tokens = sorted({min(count, room) for count in _CHUNK_TOKENS})
    batches = sorted({min(count, config.max_batch, config.max_sessions) for count in _BATCHES})
    works = [Work(((count, 0),)) for count in tokens]
    works += [Work(((count, far),)) for count in tokens[-2:]]
    works += [Work(decodes=(min(64, far),) * count, samples=count) for count in batches]
    works += [Work(decodes=(far,) * count, samples=count) for count in batches[:2]]
    steps = [Trial.of_work(work, config) for work in works]
    return steps + copies(_COPIED_BLOCKS, ("swap_out", "swap_in"), config)
