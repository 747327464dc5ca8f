"""The law with an engine that has no model: fast enough for many interleavings."""

from hypothesis import settings

from s2l_jax.core.plan import StepPlan, StepResult
from tests.fakes import FakeEngine, reference_output
from tests.law import LawMachine


class FakeEngineLaw(LawMachine):
    """Each run starts on the pages that the run before left behind: nothing may be read that was not written."""

    engine = FakeEngine(num_blocks=LawMachine.max_blocks, block_size=LawMachine.block_size)

    def execute(self, plan: StepPlan) -> StepResult:
        return self.engine.execute(plan)

    def reference(self, context: list[int], count: int) -> list[int]:
        return reference_output(context, count)


TestFakeEngineLaw = FakeEngineLaw.TestCase
TestFakeEngineLaw.settings = settings(max_examples=500, stateful_step_count=60, deadline=None)
