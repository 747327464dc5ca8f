import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from rich.console import Console

from s2l_jax.core.costs import PhysicalCosts, StepShape
from s2l_jax.engine.engine import JaxEngine
from serving.config import ServeConfig
from workloads.replay.engine_target import EngineTarget
from workloads.replay.job import ReplayConfig, run_job
from workloads.replay.progress import ReplayProgress
from workloads.replay.rows import read_session_rows
from workloads.replay.runner import run_replay
from workloads.replay.schedule import plan_sessions
from workloads.report.run import answers_agree, load_runs

CONFIG = ServeConfig(
    model="tiny-random",
    dtype="float32",
    max_model_len=512,
    kv_blocks=128,
    token_budget=16,
    max_batch=2,
    max_sessions=8,
    cache_dir=None,
    profile_dir=None,
)


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineTarget]:
    target = EngineTarget(CONFIG)
    asyncio.run(target.__aenter__())
    yield target
    asyncio.run(target.__aexit__(None, None, None))


def test_streaming_answers_like_waiting_through_the_real_engine(engine, make_trace, tmp_path):
    trace = make_trace(4)
    progress = ReplayProgress(Console(quiet=True), "replay")

    for mode in ("stream", "wait"):
        summary = asyncio.run(run_job(trace, engine, ReplayConfig(mode, 20.0, 1), tmp_path / mode, progress))
        assert (summary["completed"], summary["failed"]) == (4, 0)
        assert summary["policy"] == "s2l"
        assert summary["engine_steps"] > 0
        assert summary["tokens_computed"] >= summary["tokens_prompt"] - summary["tokens_reused"] > 0
        assert summary["ttft_final_s"]["p50"] > 0
    for row in read_session_rows(tmp_path / "stream"):
        assert 0 < row.server_ttft_final_s <= row.ttft_final_s + 0.05
        assert row.prompt_tokens > 200
    agreement = answers_agree(load_runs([tmp_path / "stream", tmp_path / "wait"]))
    assert (agreement.compared, agreement.differing) == (4, ())


def test_the_scheduler_reckons_with_what_was_measured_here(engine):
    assembly = engine._assembly
    assert assembly.engine.host_blocks == 128, "as many as the device has"
    assert assembly.orchestrator._registry.fleet.members[0].scheduler.costs is engine.costs
    work = StepShape(prefill_tokens=16, attended_tokens=128.0)
    assert 0 < engine.costs.step(work) != PhysicalCosts().step(work)
    assert engine.costs.swap_out(4) > 0 < engine.costs.swap_in(4)


def test_costs_that_are_given_are_taken_and_nothing_is_measured():
    engines = []

    def watch(engine):
        engines.append(engine)
        return engine

    costs = PhysicalCosts(token_s=0.5)

    async def run():
        async with EngineTarget(CONFIG, wrap_engine=watch, costs=costs) as target:
            return target.costs, target._assembly.orchestrator._registry.fleet.members[0].scheduler.costs

    assert asyncio.run(run()) == (costs, costs)
    assert isinstance(engines[0], JaxEngine), "not one that measures after its warm-up"


def test_what_is_interrupted_holds_nothing(engine, make_trace):
    planned = plan_sessions(make_trace(4).sessions, "stream", 20.0, 1, 256)

    async def run():
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, stop.set)
        return await run_replay(planned, engine, stop)

    assert asyncio.run(run()).interrupted
    orchestrator = engine._assembly.orchestrator
    deadline_s = time.monotonic() + 10.0
    while orchestrator.stats().scheduler.held_blocks and time.monotonic() < deadline_s:
        time.sleep(0.01)  # the step in flight
    stats = orchestrator.stats()
    assert (stats.sessions_open, stats.scheduler.held_blocks) == (0, 0)


def test_a_session_that_the_engine_refuses_is_recorded(engine, make_trace):
    (planned,) = plan_sessions(make_trace(1).sessions, "stream", None, 0, 256)
    pieces = [(0.0, piece) for _, piece in planned.pieces]
    too_long = replace(planned, pieces=(*pieces[:-1], *[pieces[1]] * 20, pieces[-1]))
    (row,) = asyncio.run(run_replay([too_long], engine, asyncio.Event())).sessions
    assert row.error.startswith("INVALID_ARGUMENT: ")
    assert row.first_token_s is None
