import numpy as np
import pytest

from s2l_jax.core.errors import InvalidArgument
from workloads.generate.marginals import Marginal, arranged, split, strata

STATISTICS = {"mean": 13.0, "p5": 2.0, "p25": 5.0, "p50": 9.0, "p95": 40.0, "max": 1e6}


def test_percentiles_and_mean_are_as_given():
    marginal = Marginal.of(STATISTICS)
    values = marginal.ascending(np.random.default_rng(0), 200_000)
    assert np.percentile(values, [5, 25, 50, 95]) == pytest.approx([2, 5, 9, 40], rel=0.001)
    assert values.mean() == pytest.approx(13.0, rel=0.005)
    assert marginal.mean == pytest.approx(13.0)
    assert (np.diff(values) >= 0).all()


def test_the_lower_half_gives_way_where_only_upper_percentiles_are_known():
    for mean in (5.5, 6.2):
        values = Marginal.of({"mean": mean, "p50": 5.0, "p95": 12.0}).ascending(np.random.default_rng(0), 100_000)
        assert values.mean() == pytest.approx(mean, rel=0.005)
        assert np.percentile(values, [50, 95, 99]) == pytest.approx([5, 12, 12 * (12 / 5) ** 0.4143], rel=0.01)


@pytest.mark.parametrize(
    "bad, why",
    [
        ({"mean": 5.0, "p50": 5.0}, "two or more percentiles"),
        ({"mean": 5.0, "p50": 5.0, "p95": 4.0}, "must ascend"),
        ({"mean": 1.0, "p50": 5.0, "p95": 9.0}, "no distribution"),
    ],
)
def test_impossible_statistics_are_refused(bad, why):
    with pytest.raises(InvalidArgument, match=why):
        Marginal.of(bad)


def test_strata_leave_no_part_out():
    shares = strata(np.random.default_rng(0), 50)
    np.testing.assert_array_equal(np.floor(shares * 50), np.arange(50))
    assert len(strata(np.random.default_rng(0), 0)) == 0


def test_arranged_follows_its_key():
    np.testing.assert_array_equal(arranged(np.array([1.0, 2.0, 3.0]), np.array([5, -1, 0])), [3.0, 1.0, 2.0])


def test_split_adds_up():
    rng = np.random.default_rng(0)
    for total, parts in ((5, 5), (100, 7), (3, 1)):
        sizes = split(rng, total, parts, 1.0)
        assert (sum(sizes), len(sizes), min(sizes) >= 1) == (total, parts, True)
