"""Checks a profile: predicts steps and copies that it was not fitted to, runs them, compares."""

from collections.abc import Sequence

import numpy as np

from cost_profiles.deviation import Deviation, describe
from cost_profiles.profile import Profile
from cost_profiles.refit import COPIES, copy_seconds
from cost_profiles.rounds import Timed
from cost_profiles.trial import Trial
from cost_profiles.work import Work, fits
from s2l_jax.core.errors import InvalidArgument
from s2l_jax.engine.config import EngineConfig

_MOST_BLOCKS = 128


def random_trials(config: EngineConfig, count: int, seed: int) -> list[Trial]:
    """So many steps of random work, and a quarter as many copies of each kind if there is a host pool.

    Sizes are drawn evenly on a logarithmic scale, for small ones are as frequent in traffic as large ones.

    Raises:
      InvalidArgument: the engine is too small for steps of several sessions.
    """
    rng = np.random.default_rng(seed)
    if min(config.max_batch, config.max_sessions, config.token_budget) < 4 or config.max_model_len < 32:
        raise InvalidArgument("an engine of fewer than 4 sessions a step, or 32 tokens a session, cannot be checked")
    trials = [Trial.of_work(_random_work(rng, config), config) for _ in range(count)]
    most = min(_MOST_BLOCKS, config.host_blocks, config.num_blocks)
    for _ in range(-(-count // 4) if most else 0):
        # Saves first, all of them: a load finds what an equal save has left.
        blocks = _log_uniform(rng, 1, most)
        trials += [Trial.of_copy(kind, blocks) for kind in COPIES]
    return trials


def compare(profile: Profile, timed: Sequence[Timed], repeats: int) -> list[Deviation]:
    """What the profile predicts of timed trials, beside what they took."""
    found = []
    for one in timed:
        trial, seconds = one.trial, one.seconds(repeats)
        if trial.copy is not None:
            predicted_s = copy_seconds(profile.costs, trial.copy, trial.blocks)
            found.append(Deviation(trial.copy, "sums", f"{trial.blocks} blocks", seconds, predicted_s))
            continue
        work = trial.work or Work()
        if work.tokens:
            predicted_s = profile.costs.step(work.shape)
            found.append(Deviation(work.kind, "sums", describe(work), seconds, predicted_s))
        if profile.padded is not None:
            found.append(Deviation(work.kind, "padded", describe(work), seconds, profile.padded.step(work)))
    return found


def _random_work(rng: np.random.Generator, config: EngineConfig) -> Work:
    """Prefill, decode, or both; drawn again until it fits."""
    sessions = min(config.max_batch, config.max_sessions)
    while True:
        kind = rng.choice(["prefill", "decode", "mixed"])
        chunks: list[tuple[int, int]] = []
        decodes: tuple[int, ...] = ()
        if kind != "decode":
            for _ in range(_log_uniform(rng, 1, 4)):
                tokens = _log_uniform(rng, 2, config.token_budget)
                chunks.append((tokens, _context(rng, config, tokens)))
        if kind != "prefill":
            decodes = tuple(_context(rng, config, 1) for _ in range(_log_uniform(rng, 1, sessions)))
        sampled = len(decodes) + int(rng.integers(0, len(chunks) + 1))
        work = Work(tuple(chunks), decodes, sampled)
        if fits(work, config):
            return work


def _context(rng: np.random.Generator, config: EngineConfig, tokens: int) -> int:
    """None at all for every fourth chunk of several tokens."""
    longest = config.max_model_len - tokens
    if longest < 1 or (tokens > 1 and rng.random() < 0.25):
        return 0
    return _log_uniform(rng, 1, longest)


def _log_uniform(rng: np.random.Generator, least: int, most: int) -> int:
    return int(min(most, np.exp(rng.uniform(np.log(least), np.log(most + 1)))))
