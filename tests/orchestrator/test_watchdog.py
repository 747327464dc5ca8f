"""Engines that hang: noticed, given up, and harmless when they come back."""

import threading

import pytest

from s2l_jax.core.errors import DeadlineExceeded, Unavailable
from s2l_jax.core.plan import StepPlan
from s2l_jax.orchestrator import watchdog as watchdog_module
from s2l_jax.orchestrator.config import OrchestratorConfig
from s2l_jax.orchestrator.watchdog import LOOK_S, Pulse, Watchdog
from tests.orchestrator.harness import Gate, Recorder, wait_until, world
from tests.orchestrator.separate_harness import separate_world
from tests.orchestrator.test_separate import LONG

QUICK = OrchestratorConfig(default_max_tokens=8, progress_interval_s=0.0, step_timeout_s=0.4)


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog_module, "LOOK_S", 0.02)


class Hanging(Gate):
    """Holds one engine's steps back, from the moment it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.is_on = False

    def __call__(self, plan: StepPlan) -> None:
        if self.is_on:
            super().__call__(plan)


@pytest.mark.parametrize("index", [0, 1])
def test_sessions_of_an_engine_that_hangs_go_on_in_another(index: int) -> None:
    with separate_world("pg", config=QUICK) as w:
        hanging = w.engines[index].hook = Hanging()
        sinks = [w.ask(f"<{i}>", params=LONG) for i in range(4)]
        wait_until(lambda: any(sink.events for sink in sinks))
        hanging.is_on = True
        sinks += [w.ask(f"[{i}]", params=LONG) for i in range(4)]
        texts = [f"<{i}>" for i in range(4)] + [f"[{i}]" for i in range(4)]
        assert [sink.ids for sink in sinks] == [w.expected(text, 30) for text in texts]
        failure = w.orchestrator.stats().engines[index].failure
        assert failure is not None and "must be restarted" in failure
        steps = w.engines[index].steps
        hanging.opened.set()  # it comes back, and nobody wants it any more
        wait_until(lambda: w.engines[index].closed)
        assert w.engines[index].steps <= steps + 1
        assert w.ask("later", params=LONG).ids == w.expected("later", 30)
        assert [len(sink.ids) for sink in sinks] == [30] * 8
        w.check_empty()


def test_a_step_that_fails_after_it_was_given_up_changes_nothing() -> None:
    entered, opened = threading.Event(), threading.Event()

    def fail(plan: StepPlan) -> None:
        if w.engines[1].steps < 4:
            return
        entered.set()
        opened.wait()
        raise RuntimeError("too late")

    with separate_world("pg", config=QUICK) as w:
        w.engines[1].collect_hook = fail
        sink = w.ask("x", params=LONG)
        assert sink.ids == w.expected("x", 30)
        assert entered.is_set()
        opened.set()
        wait_until(lambda: w.engines[1].closed)
        assert w.orchestrator.stats().counters.step_failures == 0
        w.check_empty()


def test_without_another_engine_a_hang_is_unavailable() -> None:
    gate = Gate()
    with world(config=QUICK, hook=gate) as w:
        sinks = [w.ask("a"), w.ask("b")]
        for sink in sinks:
            assert isinstance(sink.error, Unavailable) and sink.error.retry_after_s > 0
        with pytest.raises(Unavailable, match=r"ended no step for 0\.4"):
            w.ask("c")
        assert w.orchestrator.unready() is not None
        gate.opened.set()


def test_time_outs_are_kept_while_the_only_engine_hangs() -> None:
    gate = Gate()
    limits = OrchestratorConfig(default_max_tokens=8, session_deadline_s=0.2)
    with world(config=limits, hook=gate) as w:
        assert isinstance(w.ask("a").error, DeadlineExceeded)
        gate.opened.set()
        assert w.orchestrator.unready() is None


class Patient:
    """Something to be watched."""

    def __init__(self) -> None:
        self.pulse = Pulse()
        self.silent_s: list[float] = []

    def abandon(self, silent_s: float) -> None:
        self.silent_s.append(silent_s)


def test_looks_are_counted_not_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog_module, "LOOK_S", LOOK_S)
    one, slow = Patient(), Patient()
    slow.pulse.expected_s = 0.3
    looked: list[int] = []
    watchdog = Watchdog(lambda: [one, slow], 4 * LOOK_S, lambda: looked.append(1))
    for number in range(10):
        one.pulse.beats = number // 4
        slow.pulse.beats = 7
        watchdog.look()
    assert one.silent_s == []
    assert slow.silent_s == [6 * LOOK_S, 7 * LOOK_S, 8 * LOOK_S, 9 * LOOK_S]
    assert len(looked) == 10


def test_streams_that_wait_are_no_hang() -> None:
    with world(config=QUICK) as w:
        sink = Recorder()
        w.orchestrator.open(sink=sink, session_id="s", content="abc")
        threading.Event().wait(0.8)
        w.orchestrator.finish("s")
        assert sink.done
