"""A short turn of the fuzzers; `python -m tests.fuzz` takes longer ones."""

from pathlib import Path

import pytest

from tests.fuzz.__main__ import SHORTEST_MIN, fuzz, growth_mib_per_min
from tests.fuzz.target import target


def test_no_input_is_answered_with_a_defect_or_leaves_anything(tmp_path: Path) -> None:
    with target(tmp_path) as server:
        assert len(fuzz(server, 5.0, 0, examples=60)) >= 1


def test_growth_is_judged_after_the_warm_up() -> None:
    seconds = [float(one) for one in range(0, 600, 10)]
    filling = [(at_s, 100 + min(at_s, 120.0)) for at_s in seconds]
    assert growth_mib_per_min(filling, 120.0) == pytest.approx(0.0)
    leaking = [(at_s, 100 + at_s / 30) for at_s in seconds]
    assert growth_mib_per_min(leaking, 120.0) == pytest.approx(2.0)
    assert growth_mib_per_min(leaking, 600 - 60 * SHORTEST_MIN) is None
    assert growth_mib_per_min([], 0.0) is None
