import threading

import pytest

from cost_profiles.grid import grid
from cost_profiles.rounds import Pace, Run, Timed, Watch, run_rounds
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


def test_only_quiet_runs_count():
    machine = BusyMachine(until_s=40.0)
    found = run(machine)
    assert 30.0 < machine.slept_s < 40.0, "after the first window it waited until others were quiet"
    assert sum(run.foreign_cores > 0.9 for timed in found for run in timed.runs) > 0
    for timed in found:
        assert timed.quiet >= 3
        assert timed.seconds(3) == pytest.approx(true_s(timed.trial))
        assert timed.spread(3) == pytest.approx(0.0)


def test_without_quiet_the_quietest_runs_count_and_say_so():
    machine = BusyMachine(until_s=1e9)
    found = run(machine, budget_s=40.0)
    assert machine.slept_s == pytest.approx(20.0, abs=1.0)  # half of the time, and no more
    for timed in found:
        assert timed.quiet == 0
        assert timed.seconds(3) == pytest.approx(2 * true_s(timed.trial))
        assert len(timed.counted(3)) == 3
        assert all(run.foreign_cores == pytest.approx(1.0) for run in timed.counted(3))


def test_without_time_each_trial_runs_once():
    machine = BusyMachine(until_s=0.0)
    assert [len(timed.runs) for timed in run(machine, budget_s=0.0)] == [1, 1, 1]


def test_the_median_counts_and_the_middle_half_is_the_spread():
    timed = Timed(TRIALS[0], [Run(seconds, 0.0) for seconds in (1.0, 2.0, 3.0, 4.0, 50.0)] + [Run(0.1, 0.5)])
    assert (timed.seconds(3), timed.spread(3)) == (3.0, pytest.approx(2 / 3))
    assert timed.seconds(6) == 2.5


def test_it_can_be_stopped():
    stop, windows = threading.Event(), []

    def tell(done, total, foreign_cores):
        windows.append(done)
        if len(windows) == 2:
            stop.set()

    machine = BusyMachine(until_s=0.0)
    found = run_rounds(machine, TRIALS, Pace(30, 1000.0), tell, stop, machine.watch())
    assert sum(len(timed.runs) for timed in found) == windows[-1] > 0


def test_a_quiet_machine_runs_no_more_than_it_must_and_tells_how_far_it_is():
    told = []
    found = run(BusyMachine(until_s=0.0), repeats=20, on_window=lambda *progress: told.append(progress))
    # A window may be open when the last round begins.
    assert all(20 <= len(timed.runs) <= 24 for timed in found)
    assert [done for done, _, _ in told] == sorted({done for done, _, _ in told})
    assert all((total, foreign) == (60, 0.0) for _, total, foreign in told)
    assert told[-1][0] > 50


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
