"""The law with an engine that has no model: fast enough for many interleavings, and it looks at every page."""

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import pytest
from hypothesis.stateful import run_state_machine_as_test

from s2l_jax.core.constraint import Constraint
from s2l_jax.core.params import SamplingParams
from tests.fake_device import FakeDevice
from tests.fake_model import BROKEN_SEED
from tests.fakes import reference_output
from tests.law import STOPS, LawMachine, kinds_of_params, law_settings, report


def output_of(context: Sequence[int], params: SamplingParams) -> list[int]:
    """What a fresh engine outputs, regardless of stop tokens."""
    return reference_output(context, params.max_tokens, params=params, seed=params.seed or 0)


class FakeEngineLaw(LawMachine):
    """Each run starts on pages of garbage: nothing may be read that was not written."""

    params = kinds_of_params(
        {"ignore_eos": True},
        {},
        {"ignore_eos": True, "stop_token_ids": STOPS},
        {"repetition_penalty": 1.5},
        {"constraint": Constraint.regex(".*")},
        {"temperature": 1.0, "seed": 7},
        {"temperature": 1.0, "seed": BROKEN_SEED, "ignore_eos": True},
    )
    tally: ClassVar[Counter[str]] = Counter()

    def device(self) -> FakeDevice:
        return FakeDevice(
            self.max_blocks,
            self.block_size,
            self.max_sessions,
            host_blocks=self.max_host_blocks,
            token_budget=self.max_token_budget,
            max_batch=self.max_batch,
        )

    def reference(self, context: Sequence[int], params: SamplingParams) -> list[int]:
        return output_of(context, params)


@pytest.mark.timeout(0)
def test_law_on_the_fake_engine(request: pytest.FixtureRequest) -> None:
    run_state_machine_as_test(FakeEngineLaw, settings=law_settings(request.config))
    report(FakeEngineLaw.tally, request.config.getoption("--law-examples"))
