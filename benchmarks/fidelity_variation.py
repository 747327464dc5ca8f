"""Repeats of a simulated run whose steps vary as measured ones did."""

from bisect import bisect_left
from collections.abc import Sequence
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
_GROUPS = 8  # of equally many measured steps, by what the profile says of them: short ones vary more than long ones


class VaryingSteps:
    """Takes what a profile says of a step, times what a measured step took over what the profile says of that one.

    The measured step is drawn at random among those that should take about as long.
    """

    def __init__(self, profile: Profile, measured: Sequence[ServedStep], seed: int) -> None:
        predicted_s = np.array([profile.step_s(step.plan, step.idle_s) for step in measured])
        took_s = np.array([step.seconds for step in measured])
        order = np.argsort(predicted_s)
        order = order[predicted_s[order] > 0]
        groups = np.array_split(order, _GROUPS)
        self._ratios = [took_s[group] / predicted_s[group] for group in groups]
        self._ends_s = [predicted_s[group[-1]] for group in groups[:-1]]
        self._profile = profile
        self._rng = np.random.default_rng(seed)

    def __call__(self, plan: StepPlan, idle_s: float) -> float:
        seconds = self._profile.step_s(plan, idle_s)
        return seconds * float(self._rng.choice(self._ratios[bisect_left(self._ends_s, seconds)]))


def simulate_repeats(
    planned: Sequence[PlannedSession], simulation: SimulationConfig, profile: Profile, measured: Sequence[ServedStep]
) -> list[Sequence[SessionRow]]:
    """The same sessions, simulated with steps that vary as the measured ones did, each time in another way."""
    found: list[Sequence[SessionRow]] = []
    for seed in range(REPEATS):
        server = make_server(simulation, profile, len(planned))
        varying = replace(server, step_s=VaryingSteps(profile, measured, seed))
        found.append(simulate(planned, varying).measured.sessions)
    return found
