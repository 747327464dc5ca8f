"""Repeats of a simulated run whose steps vary as measured ones did."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from cost_profiles.profile import Profile
from cost_profiles.served import ServedStep
from s2l_jax.core.plan import StepPlan
from workloads.replay.rows import SessionRow
from workloads.replay.schedule import PlannedSession
from workloads.replay.simulation import simulate
from workloads.replay.simulation_config import SimulationConfig, make_server

REPEATS = 24
_TOGETHER = 16  # steps that are drawn together, so that a slow second stays slow


class VaryingSteps:
    """Takes what a profile says of a step, times what a measured step took over what the profile says of that one.

    Measured steps are drawn at random, sixteen that followed each other at a time (a block bootstrap). What steps take
    together is, in the long run, what the measured ones took together over what the profile says of them.
    """

    def __init__(self, profile: Profile, measured: Sequence[ServedStep], seed: int) -> None:
        predicted_s = np.array([profile.step_s(step.plan, step.idle_s) for step in measured])
        took_s = np.array([step.seconds for step in measured])
        ratios = took_s[predicted_s > 0] / predicted_s[predicted_s > 0]
        self._ratios = ratios * (took_s.sum() / predicted_s.sum() / ratios.mean())
        self._profile = profile
        self._drawn = self._draw(np.random.default_rng(seed))

    def __call__(self, plan: StepPlan, idle_s: float) -> float:
        return self._profile.step_s(plan, idle_s) * next(self._drawn)

    def _draw(self, rng: np.random.Generator) -> Iterator[float]:
        ratios = self._ratios
        while True:
            start = rng.integers(len(ratios))
            yield from np.take(ratios, np.arange(start, start + _TOGETHER), mode="wrap").tolist()


def simulate_repeats(
    planned: Sequence[PlannedSession], simulation: SimulationConfig, profile: Profile, measured: Sequence[ServedStep]
) -> list[Sequence[SessionRow]]:
    """The same sessions, simulated with steps that vary as the measured ones did, each time in another way."""
    found = []
    for seed in range(REPEATS):
        server = make_server(simulation, profile, len(planned))
        varying = replace(server, step_s=VaryingSteps(profile, measured, seed))
        found.append(simulate(planned, varying).measured.sessions)
    return found
