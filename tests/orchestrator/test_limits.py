"""What protects a server from its clients: capacity, time-outs, drain."""

import threading
import time

import pytest

from s2l_jax.core.errors import DeadlineExceeded, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from s2l_jax.core.params import SamplingParams
from s2l_jax.orchestrator.config import OrchestratorConfig
from s2l_jax.orchestrator.rate import CompletionRate
from tests.orchestrator.harness import TIMEOUT_S, FakeClock, Gate, Recorder, wait_until, world


@pytest.mark.parametrize(("mine", "schedulers"), [(2, 16), (256, 2)])
def test_a_full_server_refuses_with_a_hint(mine: int, schedulers: int) -> None:
    config = OrchestratorConfig(max_sessions=mine, default_max_tokens=8, retry_after_s=3.0)
    with world(config=config, max_sessions=schedulers) as w:
        for name in ("a", "b"):
            w.orchestrator.open(sink=Recorder(), session_id=name)
        sink = Recorder()
        with pytest.raises(ResourceExhausted, match="all 2 sessions are in use: try again in 3 s") as refused:
            w.orchestrator.open(sink=sink)
        assert refused.value.retry_after_s == 3.0
        w.orchestrator.cancel("a")
        w.orchestrator.open(sink=sink, session_id="c")
        assert w.orchestrator.stats().counters.sessions_refused == 1
        assert not sink.events


def test_a_session_waits_until_its_first_token() -> None:
    gate = Gate()
    with world(collect_hook=lambda plan: gate(plan) if plan.step_id == 2 else None) as w:
        sink = w.ask("a")
        assert gate.entered.wait(TIMEOUT_S)
        stats = w.orchestrator.stats()
        assert (stats.sessions_open, stats.sessions_waiting) == (1, 0)
        gate.opened.set()
        assert sink.done


def test_work_is_noticed_at_once() -> None:
    with world() as w:
        start_s = time.perf_counter()
        for i in range(10):
            assert w.ask(f"{i}").done
        assert time.perf_counter() - start_s < 1.0, "the engine thread waits for its tick"


def test_waiting_sessions_are_bounded() -> None:
    gate = Gate()
    with world(hook=gate, config=OrchestratorConfig(max_waiting=2, default_max_tokens=8)) as w:
        sinks = [w.ask("a"), w.ask("b")]
        assert w.orchestrator.stats().sessions_waiting == 2
        with pytest.raises(ResourceExhausted, match="2 sessions wait for their first token"):
            w.ask("c")
        gate.opened.set()
        assert all(sink.done for sink in sinks)
        assert w.ask("c").done


def test_the_hint_follows_the_completion_rate() -> None:
    rate = CompletionRate(default_s=7.0)
    assert rate.retry_after_s(0.0) == 7.0
    rate.record(10.0)
    assert rate.retry_after_s(11.0) == 7.0
    for now_s in (10.5, 11.0, 11.5, 12.0):
        rate.record(now_s)
    assert rate.retry_after_s(12.0) == pytest.approx(0.5)
    assert rate.retry_after_s(14.0) == pytest.approx(1.0)
    assert rate.retry_after_s(1e6) == 60.0
    assert rate.retry_after_s(10.0) == pytest.approx(0.05)


def test_idle_streams_end_and_busy_ones_do_not() -> None:
    clock = FakeClock()
    with world(clock=clock, config=OrchestratorConfig(idle_timeout_s=10, default_max_tokens=8)) as w:
        idle, busy, repeats = Recorder(), Recorder(), Recorder()
        w.orchestrator.open(sink=busy, session_id="busy", content="a")
        w.orchestrator.open(sink=repeats, session_id="repeats", content="a")
        w.orchestrator.open(sink=idle, session_id="idle", content="a")
        clock.now_s += 9
        w.orchestrator.append("busy", None)
        w.orchestrator.append("repeats", "a", seq=1)
        clock.now_s += 2
        assert isinstance(idle.error, DeadlineExceeded)
        assert "no event came for 10 s" in str(idle.error)
        with pytest.raises(NotFound):
            w.orchestrator.finish("idle")
        w.orchestrator.finish("busy")
        assert busy.done
        w.orchestrator.finish("repeats")
        assert repeats.done
        w.check_empty()


def test_a_complete_session_is_not_idle_but_has_a_deadline() -> None:
    clock = FakeClock()
    gate = Gate()
    config = OrchestratorConfig(idle_timeout_s=10, session_deadline_s=30, default_max_tokens=8)
    with world(clock=clock, config=config, hook=gate) as w:
        early = w.ask("early")
        assert gate.entered.wait(TIMEOUT_S)
        clock.now_s += 15
        late = Recorder()
        w.orchestrator.open(sink=late, session_id="late", content="la")
        w.orchestrator.append("late", "te", final=True)
        clock.now_s += 16
        gate.opened.set()
        assert isinstance(early.error, DeadlineExceeded)
        assert "open for 30 s" in str(early.error)
        assert late.ids == w.engine.reference_output(list(b"late"), 8)
        w.check_empty()


def test_drain_lets_sessions_end() -> None:
    gate = Gate()
    with world(hook=gate) as w:
        complete, stream = w.ask("a"), Recorder()
        w.orchestrator.open(sink=stream, session_id="s", content="b")
        drained: list[bool] = []
        thread = threading.Thread(target=lambda: drained.append(w.orchestrator.drain(10 * TIMEOUT_S)))
        thread.start()
        wait_until(lambda: _is_refused(w.orchestrator.open))
        gate.opened.set()
        w.orchestrator.append("s", "c", final=True)
        thread.join(TIMEOUT_S)
        assert drained == [True]
        assert complete.ids == w.engine.reference_output(list(b"a"), 8)
        assert stream.ids == w.engine.reference_output(list(b"bc"), 8)
        w.check_empty()


def test_drain_ends_what_does_not_end() -> None:
    with world() as w:
        stream = Recorder()
        w.orchestrator.open(sink=stream, session_id="s", content="b")
        assert not w.orchestrator.drain(0.05)
        assert isinstance(stream.error, Unavailable)
        w.check_empty()
        assert w.orchestrator.drain(0.05)


def test_cancel_stops_work_within_one_step() -> None:
    gate = Gate()
    with world(hook=gate, num_blocks=64) as w:
        sink = w.ask("x" * 200, session_id="s", params=SamplingParams(max_tokens=50))
        assert gate.entered.wait(TIMEOUT_S)
        w.orchestrator.cancel("s")
        assert sink.done.finish_reason == "cancelled"
        w.check_empty()
        gate.opened.set()
        assert w.ask("next").done
        assert w.engine.steps <= 1 + 8


def test_an_id_may_be_used_again_while_its_old_session_is_in_a_step() -> None:
    gate = Gate()
    with world(hook=gate) as w:
        old = w.ask("old", session_id="s", params=SamplingParams(max_tokens=1))
        assert gate.entered.wait(TIMEOUT_S)
        w.orchestrator.cancel("s")
        new = w.ask("new", session_id="s")
        gate.opened.set()
        assert new.ids == w.engine.reference_output(list(b"new"), 8)
        assert old.events == [old.done]
        w.check_empty()


def test_events_are_answered_while_a_step_runs() -> None:
    gate = Gate()
    with world(hook=gate) as w:
        w.ask("a")
        assert gate.entered.wait(TIMEOUT_S)
        start_s = time.perf_counter()
        sink = Recorder()
        w.orchestrator.open(sink=sink, session_id="s", content="b")
        for _ in range(100):
            w.orchestrator.append("s", "c")
        w.orchestrator.finish("s")
        mean_s = (time.perf_counter() - start_s) / 102
        assert not gate.opened.is_set()
        gate.opened.set()
        assert sink.ids == w.engine.reference_output(list(b"b" + b"c" * 100), 8)
        assert mean_s < 0.02, f"{mean_s * 1e6:.0f} us an event"


@pytest.mark.parametrize(
    "values",
    [
        {"max_sessions": 0},
        {"max_waiting": 0},
        {"idle_timeout_s": 0.0},
        {"step_timeout_s": 0.0},
        {"session_deadline_s": float("nan")},
        {"progress_interval_s": -1.0},
        {"default_max_tokens": 10, "limit_max_tokens": 9},
    ],
)
def test_bad_limits_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(values))):
        OrchestratorConfig(**values)  # type: ignore[arg-type]


def _is_refused(open_session: object) -> bool:
    try:
        open_session(sink=Recorder(), final=True)  # type: ignore[operator]
    except Unavailable:
        return True
    except InvalidArgument:
        return False
    return False
