"""A world goes on as long as all of its processes do the same, and ends everywhere as soon as one does not."""

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.errors import InternalError, Unavailable
from s2l_jax.core.ids import BlockId
from s2l_jax.core.plan import PageCopy, StepPlan
from s2l_jax.core.scheduler import Scheduler
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.errors import EngineGone
from s2l_jax.models import registry
from s2l_jax.models.tokenizer import ByteTokenizer
from s2l_jax.orchestrator.config import OrchestratorConfig
from s2l_jax.orchestrator.member import EngineUnit
from s2l_jax.orchestrator.orchestrator import Orchestrator
from serving.world import start
from serving.world.orders import pages_from_bytes, pages_to_bytes
from tests.orchestrator.harness import EOS, Gate, Recorder, wait_until
from tests.serving.world.harness import TIMEOUT_S, World, make_engine, world

NOTHING = StepPlan(1, (), (), copies=(PageCopy(BlockId(0), BlockId(1)),))
REFUSED = StepPlan(1, (), (), copies=(PageCopy(BlockId(0), BlockId(999)),))


def orchestrator_of(w: World) -> Orchestrator:
    limits = SchedulerConfig(
        num_blocks=64,
        block_size=4,
        token_budget=32,
        max_batch=8,
        max_sessions=12,
        max_model_len=128,
        eos_token_ids=frozenset({EOS}),
    )
    unit = EngineUnit(w.engine, Scheduler(limits))
    return Orchestrator([unit], ByteTokenizer(), OrchestratorConfig(default_max_tokens=8))


def ask(orchestrator: Orchestrator, text: str) -> Recorder:
    sink = Recorder()
    orchestrator.open(sink=sink, content=text, final=True)
    return sink


def test_all_ranks_do_the_same_and_end_together(monkeypatch: pytest.MonkeyPatch) -> None:
    with world(monkeypatch, [make_engine() for _ in range(3)]) as w:
        orchestrator = orchestrator_of(w)
        orchestrator.start()
        sinks = [ask(orchestrator, f"<{number}>") for number in range(6)]
        expected = [w.engines[0].reference_output(ByteTokenizer().encode(f"<{n}>").tolist(), 8) for n in range(6)]
        assert [sink.ids for sink in sinks] == expected
        orchestrator.close(TIMEOUT_S)
        assert len({engine.steps for engine in w.engines}) == 1
        assert w.engines[0].steps >= 8
        for engine in w.engines[1:]:
            np.testing.assert_array_equal(engine.pages, w.engines[0].pages)
        assert all(engine.closed for engine in w.engines)
        assert w.ended == []


def test_what_a_plan_is_refused_for_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = [make_engine() for _ in range(2)]

    def refuse(plan: StepPlan) -> None:
        if plan is REFUSED or plan.copies[0].target == 999:
            raise InternalError("there is no block 999")

    for engine in engines:
        engine.hook = refuse
    with world(monkeypatch, engines) as w:
        w.engine.warmup()
        with pytest.raises(InternalError, match="no block 999"):
            w.engine.execute(REFUSED)
        w.engine.execute(NOTHING)
        assert w.leader.wait_for_all(TIMEOUT_S)
        assert engines[1].steps == engines[0].steps == 1
        assert w.ended == []


@pytest.mark.parametrize("rank", [0, 1])
def test_who_refuses_alone_has_diverged(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    engines = [make_engine() for _ in range(2)]

    def refuse(_: StepPlan) -> None:
        raise InternalError("not here")

    engines[rank].hook = refuse
    with world(monkeypatch, engines) as w:
        w.engine.warmup()
        with pytest.raises(EngineGone, match="diverged"):
            for _ in range(10_000):
                with contextlib.suppress(InternalError):
                    w.engine.execute(NOTHING)
        wait_until(lambda: len(w.ended) == 2)
        assert all("has diverged" in why for why in w.ended)


def test_other_tokens_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = [make_engine(), make_engine(), make_engine()]
    engines[2].alphabet = [*engines[2].alphabet][::-1]
    with world(monkeypatch, engines) as w:
        orchestrator = orchestrator_of(w)
        orchestrator.start()
        assert ask(orchestrator, "hello").last
        wait_until(lambda: len(w.ended) == 3)
        assert all("rank 2 has diverged" in why for why in w.ended)
        try:
            error = ask(orchestrator, "again").error
        except Unavailable as refused:
            error = refused
        assert isinstance(error, Unavailable)
        assert error.retry_after_s > 0
        orchestrator.close(TIMEOUT_S)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_device_that_fails_ends_the_world(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    engines = [make_engine(), make_engine()]

    def fail(_: StepPlan) -> None:
        raise RuntimeError("device on fire")

    engines[rank].hook = fail
    with world(monkeypatch, engines) as w:
        w.engine.warmup()
        with pytest.raises(EngineGone, match=f"failed on rank {rank}.*device on fire"):
            for _ in range(10_000):
                w.engine.execute(NOTHING)
        wait_until(lambda: len(w.ended) == 2)
        assert all(f"a step failed on rank {rank}" in why for why in w.ended)
        assert "start all 2 again" in w.ended[0]


def test_nobody_waits_for_a_process_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = [make_engine(), make_engine(), make_engine()]
    with world(monkeypatch, engines) as w:
        w.engine.warmup()
        w.engine.submit(NOTHING)
        monkeypatch.setattr(engines[0], "is_ready", lambda: False)  # it waits for the others' devices
        threading.Timer(0.1, w.followers[0].close).start()
        with pytest.raises(EngineGone, match="rank 1 is gone: the connection has ended"):
            w.engine.collect()
        wait_until(lambda: len(w.ended) == 2)  # of ranks 0 and 2
        assert w.engine.is_ready()
        with pytest.raises(EngineGone):
            w.engine.submit(NOTHING)
        w.engine.close()


def test_a_silent_process_ends_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    with world(monkeypatch, [make_engine(), make_engine()], silence_s=0.3) as w:
        w.engine.warmup()
        time.sleep(0.6)  # beats keep it alive
        assert w.ended == []
        w.followers[0].watchdog.stop()
        from_s = time.monotonic()
        wait_until(lambda: bool(w.ended))
        assert time.monotonic() - from_s < 3.0
        assert "nothing was heard of rank 1 for 0.3 s" in w.ended[0]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_step_that_does_not_end_ends_the_world(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    gate, engines = Gate(), [make_engine(), make_engine()]
    engines[rank].hook = gate
    with world(monkeypatch, engines, silence_s=0.5, step_s=0.3) as w:
        w.engine.warmup()

        def execute() -> None:
            with contextlib.suppress(EngineGone):  # fake devices do not wait for each other
                w.engine.execute(NOTHING)

        step = threading.Thread(target=execute)
        step.start()
        wait_until(lambda: len(w.ended) == 2)
        assert all(f"rank {rank} has not come through with a step for 0.3 s" in why for why in w.ended)
        gate.opened.set()
        step.join()


def test_a_process_that_is_to_stop_has_rank_0_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    with world(monkeypatch, [make_engine(), make_engine()]) as w:
        w.followers[0].ask_to_drain()
        wait_until(lambda: len(w.drains) == 1)
        assert w.ended == []


def test_pages_travel_with_their_blocks() -> None:
    pages = np.random.default_rng(0).normal(size=(8, 2, 2, 4, 16)).astype(np.float16)
    blocks, found = pages_from_bytes(pages_to_bytes(range(8), pages))
    assert blocks == list(range(8))
    assert found.dtype == pages.dtype
    np.testing.assert_array_equal(found, pages)


SIZES = EngineConfig(num_blocks=100, host_blocks=7)


def test_all_go_on_with_what_each_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with world(monkeypatch, [make_engine() for _ in range(3)]) as w, ThreadPoolExecutor() as pool:
        monkeypatch.setattr(start, "fingerprint", lambda _: "the same")
        sizes = [SIZES, replace(SIZES, num_blocks=90), replace(SIZES, host_blocks=5)]
        members = [w.leader, *w.followers]
        chosen = list(pool.map(start.agreed, members, sizes, [None] * 3))
        assert chosen == [replace(SIZES, num_blocks=90, host_blocks=5)] * 3
        assert w.ended == []


def test_other_weights_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with world(monkeypatch, [make_engine() for _ in range(2)]) as w, ThreadPoolExecutor() as pool:
        monkeypatch.setattr(start, "fingerprint", lambda model: model)
        said = pool.submit(start.agreed, w.followers[0], SIZES, "these")  # type: ignore[arg-type]
        with pytest.raises(EngineGone, match="read different weights"):
            start.agreed(w.leader, SIZES, "those")  # type: ignore[arg-type]
        wait_until(lambda: len(w.ended) == 2)
        assert all("read different weights" in why for why in w.ended)
        w.followers[0]._agreed.put({"num_blocks": 100, "host_blocks": 0})  # let the thread go
        said.result(TIMEOUT_S)


def test_weights_of_one_model_have_one_fingerprint() -> None:
    found = [start.fingerprint(registry.load("tiny-random", seed=seed).build()) for seed in (0, 0, 1)]
    assert found[0] == found[1]
    assert found[0] != found[2]
