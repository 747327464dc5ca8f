"""A machine whose steps cost what their padded work says, and a profile measured on it."""

from cost_profiles.grid import grid
from cost_profiles.measure import Subject, profile_of
from cost_profiles.padding import PaddedCosts, Padding
from cost_profiles.profile import ProfileMemory
from cost_profiles.rounds import Pace, Watch, run_rounds
from cost_profiles.work import Work
from s2l_jax.core.costs import PhysicalCosts
from s2l_jax.core.plan import SampledToken, StepResult, StepTiming
from s2l_jax.engine.buckets import token_buckets
from s2l_jax.engine.config import EngineConfig

CONFIG = EngineConfig(
    num_blocks=300, token_budget=64, max_batch=16, max_sessions=16, max_model_len=1024, host_blocks=40
)
PADDING = Padding(token_buckets(64), 16, 32, 32, 4, 64, 16, 48)
DENSE_S = tuple(0.01 + 1e-3 * bucket for bucket in PADDING.token_buckets)
PADDED = PaddedCosts(PADDING, DENSE_S, 1e-6, 1e-7, 2e-6, 1e-6, 1e-3, 1e-4)
COPIES = PhysicalCosts(swap_out_s=2e-3, swap_out_block_s=1e-4, swap_in_s=5e-4, swap_in_block_s=2e-4)
SUBJECT = Subject("mine", "m", "a fake", 1, "float32", ProfileMemory(10**9, 10**8, 10**8, 10**5), 1024, PADDING)


class PaddedMachine:
    """An engine on a clock of its own, on a machine of its own.

    `slower` is a factor on steps, `exposed` the share of a copy's time that it does not run beside the computation.
    """

    def __init__(self, slower=1.0, exposed=1.0):
        self.now_s = 0.0
        self._slower, self._exposed = slower, exposed

    def execute(self, plan):
        timing = StepTiming(
            self._slower * PADDED.step(Work.of(plan)),
            COPIES.swap_out(len(plan.saves)),
            COPIES.swap_in(len(plan.loads)),
        )
        copies_s = timing.save_s + timing.load_s
        self.now_s += max(timing.compute_s + self._exposed * copies_s, copies_s)
        return StepResult(plan, tuple(SampledToken(5) for _ in plan.samples), timing)

    def time(self, trials, repeats=2):
        watch = Watch(lambda: self.now_s, lambda seconds: None, lambda: 0.0)
        return run_rounds(self, trials, Pace(repeats), watch=watch)


def measured_profile(config=CONFIG, exposed=1.0, served=()):
    return profile_of(SUBJECT, PaddedMachine(exposed=exposed).time(grid(config)), Pace(2), 0.001, served)
