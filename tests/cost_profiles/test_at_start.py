import pytest

from cost_profiles.at_start import LateCosts, machine_costs
from cost_profiles.measurement import MachineKey
from s2l_jax.core.costs import PhysicalCosts, StepShape
from tests.cost_profiles.test_probe import CONFIG, Machine

KEY = MachineKey("m", "cpu", "float32", 16, "numpy", "0.1.0")
WORK = StepShape(100, 5000.0, 3, 300)


class Warmable(Machine):
    def __init__(self, costs):
        super().__init__(costs, timed=True)
        self.warm = 0

    def warmup(self, progress=None):
        self.warm += 1

    submit = collect = is_ready = close = None


def start(directory, told, token_s=1e-3):
    machine = Warmable(PhysicalCosts(token_s=token_s))
    engine, costs = machine_costs(machine, CONFIG, KEY, directory, told.append)
    engine.warmup()
    assert machine.warm == 1
    return machine, costs


def test_the_first_start_measures_and_the_second_does_not(tmp_path):
    told = []
    _, costs = start(tmp_path / "new", told)
    assert told == [0, 1]
    assert isinstance(costs, LateCosts)
    real = PhysicalCosts(token_s=1e-3)
    assert costs.step(WORK) == pytest.approx(real.step(WORK))
    assert costs.recompute(100, 50) == pytest.approx(real.recompute(100, 50))
    assert costs.tokens_within(0.3, 50) == real.tokens_within(0.3, 50)
    assert (costs.swap_out(7), costs.swap_in(7)) == pytest.approx((real.swap_out(7), real.swap_in(7)))

    again, kept = start(tmp_path / "new", told, token_s=9e-3)
    assert (again.plans, told) == ([], [0, 1])
    assert kept.step(WORK) == pytest.approx(real.step(WORK))


def test_without_a_directory_each_start_measures():
    for token_s in (1e-3, 2e-3):
        _, costs = start(None, [], token_s)
        assert costs.step(WORK) == pytest.approx(PhysicalCosts(token_s=token_s).step(WORK))


def test_a_directory_that_cannot_be_written_is_no_reason_to_fail(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    _, costs = start(blocked, [])
    assert costs.step(WORK) == pytest.approx(PhysicalCosts(token_s=1e-3).step(WORK))
    assert "cannot be kept" in caplog.text


def test_default_costs_until_then():
    assert LateCosts().step(WORK) == PhysicalCosts().step(WORK)
