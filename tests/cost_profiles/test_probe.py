import pytest

from cost_profiles.probe import probe
from s2l_jax.core.costs import PhysicalCosts
from s2l_jax.core.plan import SampledToken, StepResult, StepTiming
from s2l_jax.engine.config import EngineConfig

CONFIG = EngineConfig(
    num_blocks=300, token_budget=256, max_batch=16, max_sessions=12, max_model_len=4096, host_blocks=40
)
COSTS = PhysicalCosts(0.01, 2e-3, 7e-8, 3e-3, 2e-6, 2e-3, 1e-4, 5e-4, 2e-4)


class Machine:
    """An engine that takes exactly what a cost model says, on a clock of its own."""

    def __init__(self, costs=COSTS, timed=False, first_round_s=0.0):
        self.now_s = 0.0
        self.plans = []
        self._costs, self._timed, self._disturbance_s = costs, timed, first_round_s
        self._seen = set()

    def now(self):
        return self.now_s

    def execute(self, plan):
        self.plans.append(plan)
        costs = self._costs
        compute_s = costs.step(plan.shape) if plan.chunks else 0.0
        timing = StepTiming(compute_s, costs.swap_out(len(plan.saves)), costs.swap_in(len(plan.loads)))
        late_s = 0.0 if id(plan) in self._seen else self._disturbance_s
        self._seen.add(id(plan))
        self.now_s += sum(timing) + late_s
        tokens = tuple(SampledToken(5) for _ in plan.samples)
        return StepResult(plan, tokens, timing) if self._timed else StepResult(plan, tokens)


@pytest.mark.parametrize("timed", [False, True])
def test_the_probe_finds_the_machines_costs(timed):
    machine = Machine(timed=timed)
    profile = probe(machine, CONFIG, now=machine.now)
    for name in PhysicalCosts.__slots__:
        assert getattr(profile.costs, name) == pytest.approx(getattr(COSTS, name), rel=1e-6), name
    assert (len(profile.steps), len(profile.copies)) == (10, 6)


def test_disturbances_of_one_round_are_not_measured():
    machine = Machine(first_round_s=0.3)
    profile = probe(machine, CONFIG, budget_s=20.0, now=machine.now)
    assert profile.worst_error < 1e-6


def test_a_slow_machine_is_measured_once():
    slow = PhysicalCosts(token_s=0.1, decode_s=0.5)
    machine = Machine(slow)
    probe(machine, CONFIG, budget_s=2.5, now=machine.now)
    assert len(machine.plans) == 2 * len({id(plan) for plan in machine.plans})  # not timed at first, then timed


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        EngineConfig(num_blocks=4, block_size=16, token_budget=16, max_batch=2, max_sessions=1, max_model_len=64),
        EngineConfig(
            num_blocks=600, token_budget=512, max_batch=64, max_sessions=64, max_model_len=8192, host_blocks=2
        ),
    ],
)
def test_plans_keep_within_the_engine(config):
    machine = Machine()
    probe(machine, config, now=machine.now)
    assert any(plan.saves for plan in machine.plans) == bool(config.host_blocks)
    saved = set()
    for plan in machine.plans:
        assert plan.tokens <= config.token_budget
        assert max(len(plan.chunks), len(plan.samples)) <= min(config.max_batch, config.max_sessions)
        for chunk in plan.chunks:
            assert chunk.end <= config.max_model_len
            assert len(chunk.block_table) * config.block_size >= chunk.end
            assert 0 <= chunk.block_table.min() <= chunk.block_table.max() < config.num_blocks
        saved |= {(copy.slot, copy.epoch) for copy in plan.saves}
        assert {(copy.slot, copy.epoch) for copy in plan.loads} <= saved
        assert all(copy.slot < config.host_blocks for copy in (*plan.saves, *plan.loads))
