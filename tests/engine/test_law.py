"""The law with the JAX engine and a tiny model: greedy tokens are those of a fresh engine given all context at once."""

import functools

import numpy as np
import pytest
from hypothesis.stateful import run_state_machine_as_test

from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import StepPlan, StepResult
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.engine import JaxEngine
from s2l_jax.models.registry import LoadedModel
from tests.engine.driver import Stream, decode, prefill
from tests.law import MAX_MODEL_LEN, LawMachine, law_settings

GREEDY = SamplingParams()


@pytest.fixture(scope="module")
def fresh(tiny: LoadedModel, config: EngineConfig) -> JaxEngine:
    """An engine that takes a whole context in one step."""
    whole = EngineConfig(
        num_blocks=MAX_MODEL_LEN // config.block_size,
        block_size=config.block_size,
        token_budget=MAX_MODEL_LEN,
        max_batch=1,
        max_sessions=1,
        max_model_len=MAX_MODEL_LEN,
        cache_dir=config.cache_dir,
    )
    engine = JaxEngine(tiny.build(), tiny.config, whole)
    engine.warmup()
    return engine


@pytest.mark.timeout(0)
def test_law_on_the_jax_engine(engine: JaxEngine, fresh: JaxEngine, request: pytest.FixtureRequest) -> None:
    @functools.cache
    def reference(context: tuple[int, ...], count: int) -> list[int]:
        stream = Stream(context, np.arange(MAX_MODEL_LEN // 4))
        prefill(fresh, stream, [len(context)])
        decode(fresh, [stream], count, GREEDY)
        return stream.tokens[len(context) :]

    class JaxEngineLaw(LawMachine):
        steps = 0

        def execute(self, plan: StepPlan) -> StepResult:
            JaxEngineLaw.steps += 1
            return engine.execute(plan)

        def reference(self, context: list[int], count: int) -> list[int]:
            return reference(tuple(context), count)

    run_state_machine_as_test(JaxEngineLaw, settings=law_settings(request.config))
    print(f"{JaxEngineLaw.steps} steps")
