import numpy as np
import pytest

from s2l_jax.core.errors import InvalidArgument
from workloads.generate.arrivals import ARRIVAL_KINDS, ArrivalProcess
from workloads.generate.crawler import CrawlerConfig, crawler_sessions


def times_s(process, count=40_000, qps=4.0, seed=0):
    return process(np.random.default_rng(seed), count, qps)


def counts_per(times, period_s):
    return np.bincount((times / period_s).astype(int))[:-1]


@pytest.mark.parametrize("kind", ARRIVAL_KINDS)
def test_queries_arrive_in_order_at_the_rate_asked_for(kind):
    times = times_s(ArrivalProcess(kind))
    assert (len(times), times[0]) == (40_000, 0.0)
    assert (np.diff(times) >= 0.0).all()
    assert times[-1] == pytest.approx(10_000, rel=0.05)
    np.testing.assert_array_equal(times, times_s(ArrivalProcess(kind)))
    assert times_s(ArrivalProcess(kind), 1).tolist() == [0.0]


@pytest.mark.parametrize("variation", [0.5, 1.0, 3.0])
def test_bursts_vary_as_asked_for(variation):
    gaps_s = np.diff(times_s(ArrivalProcess("bursty", variation=variation)))
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(variation, rel=0.05)


def test_a_variation_of_one_is_poisson():
    for process in (ArrivalProcess(), ArrivalProcess("bursty", variation=1.0)):
        counts = counts_per(times_s(process), 10.0)
        assert counts.var() / counts.mean() == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize("period_s, swing", [(1000.0, 0.8), (500.0, 0.3)])
def test_the_rate_is_a_wave(period_s, swing):
    phases = times_s(ArrivalProcess("diurnal", swing=swing, period_s=period_s)) % period_s / period_s
    # Means over quarters of a sine wave: its highest and lowest quarter lie around 1/4 and 3/4.
    high, low = (np.mean(np.abs(phases - place) < 0.125) for place in (0.25, 0.75))
    tide = swing * np.sin(np.pi / 4) / (np.pi / 4)
    assert high / low == pytest.approx((1 + tide) / (1 - tide), rel=0.1)


def test_without_a_period_all_queries_are_one_wave():
    halves = times_s(ArrivalProcess("diurnal"), count=10_000) < 1250.0
    assert np.mean(halves) == pytest.approx(0.5 + 0.8 / np.pi, abs=0.02)


def test_sessions_arrive_as_configured():
    config = CrawlerConfig(sessions=500, qps=2.0, arrivals=ArrivalProcess("bursty", variation=4.0))
    arrivals_s = [session.arrival_s for session in crawler_sessions(config)]
    gaps_s = np.diff(arrivals_s)
    assert gaps_s.std() / gaps_s.mean() > 2.0


@pytest.mark.parametrize("bad", [{"kind": "weekly"}, {"variation": 0.0}, {"swing": 1.5}, {"period_s": 0.0}])
def test_impossible_processes_are_refused(bad):
    with pytest.raises(InvalidArgument, match="weekly" if "kind" in bad else next(iter(bad))):
        ArrivalProcess(**bad)


def test_an_impossible_rate_is_refused():
    with pytest.raises(InvalidArgument, match="qps"):
        times_s(ArrivalProcess(), qps=0.0)
