import numpy as np
import pytest

from cost_profiles.fit import fit, least_squares
from cost_profiles.measurement import CopyPoint, StepPoint
from s2l_jax.core.costs import PhysicalCosts, StepShape

COSTS = PhysicalCosts()
SHAPES = [
    StepShape(16, 128),
    StepShape(64, 2048),
    StepShape(256, 32768),
    StepShape(256, 256 * 2176),
    StepShape(decodes=1, decode_context_tokens=64),
    StepShape(decodes=8, decode_context_tokens=512),
    StepShape(decodes=8, decode_context_tokens=16384),
]


def points(costs, noise=0.0, rng=None):
    def disturbed(seconds):
        return seconds * (1 + (rng.uniform(0, noise) if noise else 0))

    steps = [StepPoint(shape, disturbed(costs.step(shape))) for shape in SHAPES]
    copies = [CopyPoint("swap_out", count, disturbed(costs.swap_out(count))) for count in (1, 8, 32)]
    copies += [CopyPoint("swap_in", count, disturbed(costs.swap_in(count))) for count in (1, 8, 32)]
    return steps, copies


def test_exact_points_give_back_the_costs():
    want = PhysicalCosts(0.01, 2e-3, 7e-8, 3e-3, 2e-6, 2e-3, 1e-4, 5e-4, 2e-4)
    profile = fit(*points(want))
    for name in PhysicalCosts.__slots__:
        assert getattr(profile.costs, name) == pytest.approx(getattr(want, name), rel=1e-6), name
    assert profile.r_squared == pytest.approx(1.0)
    assert profile.worst_error < 1e-6


def test_noise_is_borne():
    profile = fit(*points(COSTS, 0.1, np.random.default_rng(0)))
    assert profile.worst_error < 0.1
    assert profile.r_squared > 0.98
    for shape in SHAPES:
        assert profile.costs.step(shape) == pytest.approx(COSTS.step(shape), rel=0.15)
    assert profile.costs.swap_in(20) == pytest.approx(COSTS.swap_in(20), rel=0.15)


def test_no_term_is_negative():
    # A straight line through these has a negative intercept.
    assert least_squares(np.array([[1.0, 1.0], [1.0, 2.0]]), np.array([1.0, 4.0]))[0] == 0.0
    rng = np.random.default_rng(1)
    for _ in range(50):
        terms = np.column_stack([np.ones(8), rng.uniform(0, 100, (8, 3))])
        assert min(least_squares(terms, rng.uniform(0.1, 1.0, 8))) >= 0.0


def test_a_token_always_costs_something():
    steps = [StepPoint(StepShape(count, 0.0), 0.5) for count in (1, 2, 3)]
    costs = fit(steps, []).costs
    assert costs.token_s > 0
    assert (costs.swap_out(5), costs.swap_in(5)) == (0.0, 0.0)
