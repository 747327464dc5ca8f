"""The law with the JAX engine and a tiny model: greedy tokens are those of a fresh engine given all context at once."""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import pytest
from hypothesis.stateful import run_state_machine_as_test

from s2l_jax.core.ids import SessionId
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import StepPlan, StepResult
from s2l_jax.core.scheduler import Scheduler
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.engine import JaxEngine
from s2l_jax.models.registry import LoadedModel
from tests.engine.driver import Stream, decode, prefill
from tests.fakes import Context
from tests.law import MAX_MODEL_LEN, STOPS, LawMachine, kinds_of_params, law_settings, report
from tests.plan_check import PlanCheck


class JaxDevice:
    """A JAX engine, and ways to break it. What fails here has run in truth: its KV is there, and right."""

    def __init__(self, engine: JaxEngine, config: EngineConfig, vocab_size: int) -> None:
        self._engine = engine
        self._config = config
        self._check = PlanCheck(
            config.num_blocks,
            config.block_size,
            config.max_sessions,
            config.host_blocks,
            vocab_size=vocab_size,
            token_budget=config.token_budget,
            max_batch=config.max_batch,
        )
        self._outstanding = 0

    def submit(self, plan: StepPlan, contexts: Mapping[SessionId, Context] | None = None) -> None:
        self._check(plan)
        self._engine.submit(plan)
        self._outstanding += 1

    def collect(self) -> StepResult:
        self._outstanding -= 1
        return self._engine.collect()

    def drop(self) -> None:
        while self._outstanding:
            self.collect()

    def lose_kv(self) -> None:
        """Writes over every page and every slot."""
        self.drop()
        config = self._config
        step_blocks = min(config.token_budget, config.max_model_len) // config.block_size
        for index, block in enumerate(range(0, config.num_blocks, step_blocks)):
            blocks = range(block, min(block + step_blocks, config.num_blocks))
            junk = Stream([9] * (len(blocks) * config.block_size), blocks, slot=index % config.max_sessions)
            prefill(self._engine, junk, [len(junk.tokens)])

    def inspect(self, scheduler: Scheduler, contexts: Mapping[SessionId, Context]) -> None:
        """Pages of a real model cannot be told right from wrong by looking."""


@pytest.fixture(scope="module")
def config(config: EngineConfig) -> EngineConfig:
    return replace(config, host_blocks=LawMachine.max_host_blocks)


@pytest.fixture(scope="module")
def engine(tiny: LoadedModel, config: EngineConfig) -> JaxEngine:
    engine = JaxEngine(tiny.build(), tiny.config, config)
    engine.warmup()
    return engine


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
def test_law_on_the_jax_engine(
    tiny: LoadedModel, engine: JaxEngine, config: EngineConfig, fresh: JaxEngine, request: pytest.FixtureRequest
) -> None:
    @functools.cache
    def reference(context: tuple[int, ...], params: SamplingParams) -> list[int]:
        stream = Stream(context, range(MAX_MODEL_LEN // config.block_size))
        prefill(fresh, stream, [len(context)])
        decode(fresh, [stream], params.max_tokens, params)
        return stream.tokens[len(context) :]

    devices: list[JaxDevice] = []

    class JaxEngineLaw(LawMachine):
        params = kinds_of_params(
            {"ignore_eos": True}, {}, {"ignore_eos": True, "stop_token_ids": STOPS}, {"repetition_penalty": 1.5}
        )
        tally: ClassVar[Counter[str]] = Counter()

        def device(self) -> JaxDevice:
            for device in devices:
                device.drop()
            devices[:] = [JaxDevice(engine, config, tiny.config.vocab_size)]
            return devices[0]

        def reference(self, context: Sequence[int], params: SamplingParams) -> list[int]:
            return reference(tuple(context), params)

    run_state_machine_as_test(JaxEngineLaw, settings=law_settings(request.config))
    report(JaxEngineLaw.tally, request.config.getoption("--law-examples"))
