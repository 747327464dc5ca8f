import threading

import pytest

from cost_profiles.grid import grid
from cost_profiles.rounds import Pace, Watch, run_rounds
from cost_profiles.trial import Trial
from cost_profiles.work import Work
from s2l_jax.core.errors import InvalidArgument
from s2l_jax.engine.config import EngineConfig
from tests.cost_profiles.test_probe import CONFIG, COSTS, Machine

TRIALS = [Trial.of_work(Work(((tokens, 0),)), CONFIG) for tokens in (16, 64, 200)]


class BusyMachine(Machine):
    """Others keep a core busy for the first seconds, which makes everything take twice as long."""

    def __init__(self, until_s):
        super().__init__(timed=True)
        self.until_s = until_s
        self.slept_s = 0.0

    def execute(self, plan):
        busy = self.now_s < self.until_s
        result = super().execute(plan)
        if busy:
            self.now_s += result.timing.compute_s
            result = type(result)(plan, result.tokens, result.timing._replace(compute_s=2 * result.timing.compute_s))
        return result

    def foreign_s(self):
        return min(self.now_s, self.until_s)

    def sleep(self, seconds):
        self.slept_s += seconds
        self.now_s += seconds

    def watch(self):
        return Watch(self.now, self.sleep, self.foreign_s)


def run(machine, repeats=3, budget_s=1000.0, trials=TRIALS, on_window=None):
    return run_rounds(machine, trials, Pace(repeats, budget_s), on_window, watch=machine.watch())


def true_s(trial):
    return COSTS.step(trial.work.shape)


def test_only_quiet_windows_count():
    machine = BusyMachine(until_s=40.0)
    found = run(machine, budget_s=1000.0)
    assert sum(len(timed.windows) > 3 for timed in found) == 1  # then it waited until others were quiet
    assert 30.0 < machine.slept_s < 40.0
    for timed in found:
        assert timed.quiet == 3
        assert timed.seconds(3) == pytest.approx(true_s(timed.trial))
        assert timed.spread(3) == pytest.approx(0.0)


def test_without_quiet_the_quietest_windows_count_and_say_so():
    machine = BusyMachine(until_s=1e9)
    found = run(machine, budget_s=40.0)
    assert machine.slept_s == pytest.approx(20.0, abs=1.0)  # half of the time, and no more
    for timed in found:
        assert timed.quiet == 0
        assert timed.seconds(3) == pytest.approx(2 * true_s(timed.trial))
        assert len(timed.counted(3)) == 3
        assert all(window.foreign_cores == pytest.approx(1.0) for window in timed.counted(3))


def test_without_time_each_trial_has_one_window():
    machine = BusyMachine(until_s=0.0)
    assert [len(timed.windows) for timed in run(machine, budget_s=0.0)] == [1, 1, 1]


def test_it_can_be_stopped():
    stop, windows = threading.Event(), []

    def tell(done, total, foreign_cores):
        windows.append(done)
        if len(windows) == 5:
            stop.set()

    machine = BusyMachine(until_s=0.0)
    found = run_rounds(machine, TRIALS, Pace(3, 1000.0), tell, stop, machine.watch())
    assert sum(len(timed.windows) for timed in found) == len(windows) == 5


def test_a_quiet_machine_runs_no_more_than_asked_for_and_tells_how_far_it_is():
    told = []
    run(BusyMachine(until_s=0.0), repeats=2, on_window=lambda *progress: told.append(progress))
    assert [done for done, _, _ in told] == [1, 2, 3, 4, 5, 6]
    assert all((total, foreign) == (6, 0.0) for _, total, foreign in told)


def test_the_order_is_random_and_repeatable():
    def order(seed):
        machine = BusyMachine(until_s=0.0)
        run_rounds(machine, TRIALS, Pace(4, 1000.0, seed), watch=machine.watch())
        return [id(plan) for plan in machine.plans]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_impossible_paces_are_refused():
    for broken in ({"repeats": 0}, {"budget_s": -1.0}):
        with pytest.raises(InvalidArgument):
            Pace(**broken)


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        EngineConfig(num_blocks=3328, host_blocks=3328),
        EngineConfig(num_blocks=4, block_size=16, token_budget=16, max_batch=2, max_sessions=1, max_model_len=64),
        EngineConfig(num_blocks=9000, token_budget=8192, max_batch=256, max_sessions=256, max_model_len=131072),
    ],
)
def test_the_grid_keeps_within_the_engine_and_has_work_of_all_kinds(config):
    trials = grid(config)
    for trial in trials:
        for plan in trial.plans:
            assert plan.tokens <= config.token_budget
            assert max(len(plan.chunks), len(plan.samples)) <= min(config.max_batch, config.max_sessions)
            assert all(copy.slot < config.host_blocks for copy in (*plan.saves, *plan.loads))
    kinds = {trial.work.kind for trial in trials if trial.work}
    assert kinds == ({"prefill", "decode", "mixed", "sample"} if config.max_sessions > 1 else kinds)
    copies = [(trial.copy, trial.blocks) for trial in trials if trial.copy and not trial.is_whole]
    assert {copy for copy, _ in copies} == ({"swap_out", "swap_in", "handoff"} if config.host_blocks else set())
    assert len(copies) == len(set(copies))
    assert {trial.copy for trial in trials if trial.is_whole and trial.blocks} == {copy for copy, _ in copies[:2]}
