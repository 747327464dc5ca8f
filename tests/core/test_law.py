"""The law with an engine that has no model: fast enough for many interleavings."""

import pytest
from hypothesis.stateful import run_state_machine_as_test

from s2l_jax.core.plan import StepPlan, StepResult
from tests.fakes import FakeEngine, reference_output
from tests.law import LawMachine, law_settings


class FakeEngineLaw(LawMachine):
    """Each run starts on the pages that the run before left behind: nothing may be read that was not written."""

    engine = FakeEngine(num_blocks=LawMachine.max_blocks, block_size=LawMachine.block_size)

    def execute(self, plan: StepPlan) -> StepResult:
        return self.engine.execute(plan)

    def reference(self, context: list[int], count: int) -> list[int]:
        return reference_output(context, count)


@pytest.mark.timeout(0)
def test_law_on_the_fake_engine(request: pytest.FixtureRequest) -> None:
    run_state_machine_as_test(FakeEngineLaw, settings=law_settings(request.config))
    print(f"{FakeEngineLaw.engine.steps} steps")
