"""Steps overlap: when the next one is planned, and what it knows by then."""

import threading
from collections.abc import Callable

import pytest

from s2l_jax.core.costs import PhysicalCosts
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import StepPlan, StepResult
from s2l_jax.orchestrator.pace import Pace
from tests.fakes import FakeEngine
from tests.orchestrator.harness import TIMEOUT_S, Recorder, wait_until, world


class SlowEngine(FakeEngine):
    """Steps take until they are released; notes what it is told to do."""

    def __init__(self, *args: object, **more: object) -> None:
        super().__init__(*args, **more)  # type: ignore[arg-type]
        self.calls: list[tuple[str, StepPlan]] = []
        self.released = threading.Event()

    def submit(self, plan: StepPlan, contexts: object = None) -> None:
        self.calls.append(("submit", plan))
        super().submit(plan)

    def is_ready(self) -> bool:
        return super().is_ready() and self.released.is_set()

    def collect(self) -> StepResult:
        assert self.released.wait(TIMEOUT_S)
        result = super().collect()
        self.calls.append(("collect", result.plan))
        return result

    @property
    def log(self) -> list[str]:
        return [f"{name} {plan.step_id}" for name, plan in self.calls]


def test_the_next_step_is_planned_under_this_one_and_knows_what_came_meanwhile() -> None:
    with world(engine_type=SlowEngine, costs=PhysicalCosts(step_s=0.4)) as w:
        engine = w.engine
        assert isinstance(engine, SlowEngine)
        stream, other = Recorder(), Recorder()
        w.orchestrator.open(sink=stream, session_id="stream", content="abc")
        wait_until(lambda: engine.log == ["submit 1"])
        w.orchestrator.append("stream", "defg", final=True)
        w.orchestrator.open(sink=other, session_id="other", content="hi", final=True)
        wait_until(lambda: len(engine.log) > 1)
        assert engine.log == ["submit 1", "submit 2"]
        tokens = {chunk.session_id: bytes(chunk.tokens.tolist()) for chunk in engine.calls[1][1].chunks}
        assert tokens == {"stream": b"defg", "other": b"hi"}
        engine.released.set()
        assert stream.ids == engine.reference_output(list(b"abcdefg"), 8)
        assert other.ids == engine.reference_output(list(b"hi"), 8)
        w.check_empty()


def test_what_comes_late_in_a_step_without_successor_is_still_planned_under_it() -> None:
    with world(engine_type=SlowEngine, costs=PhysicalCosts(step_s=0.02)) as w:
        engine = w.engine
        assert isinstance(engine, SlowEngine)
        sink = Recorder()
        w.orchestrator.open(sink=sink, session_id="s", content="abc")
        wait_until(lambda: engine.log == ["submit 1"])
        threading.Event().wait(0.05)  # past the time for planning
        w.orchestrator.append("s", "de", final=True)
        wait_until(lambda: engine.log == ["submit 1", "submit 2"])
        engine.released.set()
        assert sink.ids == engine.reference_output(list(b"abcde"), 8)


def test_work_ahead_of_time_is_not_queued_behind_a_step() -> None:
    with world(engine_type=SlowEngine, costs=PhysicalCosts(step_s=0.02)) as w:
        engine = w.engine
        assert isinstance(engine, SlowEngine)
        stream, other = Recorder(), Recorder()
        w.orchestrator.open(sink=stream, session_id="stream", content="abc")
        wait_until(lambda: engine.log == ["submit 1"])
        w.orchestrator.append("stream", "defg")
        threading.Event().wait(0.1)  # past the time for planning
        assert engine.log == ["submit 1"]
        w.orchestrator.open(sink=other, session_id="other", content="hi", final=True)
        wait_until(lambda: len(engine.log) > 1)
        assert {chunk.session_id for chunk in engine.calls[1][1].chunks} == {"other"}
        engine.released.set()
        w.orchestrator.finish("stream")
        assert stream.ids == engine.reference_output(list(b"abcdefg"), 8)
        assert other.ids == engine.reference_output(list(b"hi"), 8)


def test_a_session_that_ends_under_its_next_step_gets_nothing_from_it() -> None:
    """An end-of-sequence token shows when the step behind it has been submitted."""
    with world(alphabet=[*range(ord("a"), ord("f")), 257]) as w:
        for index in range(20):
            sink = w.ask(f"{index}", params=SamplingParams(max_tokens=60))
            ids = sink.ids
            expected = w.engine.reference_output(list(str(index).encode()), 60)
            end = expected.index(257) + 1 if 257 in expected else 60
            assert ids == expected[:end]
            assert sink.done.stats.output_tokens == end
        wait_until(lambda: w.orchestrator.stats().scheduler.held_blocks == 0)
        w.check_empty()


def test_events_are_answered_while_steps_are_outstanding() -> None:
    with world(engine_type=SlowEngine) as w:
        engine = w.engine
        assert isinstance(engine, SlowEngine)
        sink = w.ask("a", session_id="s", params=SamplingParams(max_tokens=50, ignore_eos=True))
        wait_until(lambda: engine.log == ["submit 1", "submit 2"])
        w.orchestrator.cancel("s")
        assert sink.done.finish_reason == "cancelled"
        engine.released.set()
        wait_until(lambda: w.orchestrator.stats().counters.steps == 2)
        w.check_empty()


class Time:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.naps: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now_s += seconds


def never() -> bool:
    return False


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def pace(clock: Time) -> Pace:
    return Pace(clock, clock.sleep)


@pytest.mark.parametrize(("predicted_s", "held_s"), [(0.0, 0.0), (0.02, 0.014), (0.1, 0.07), (1.0, 0.97)])
def test_planning_begins_late_in_a_step(pace: Pace, clock: Time, predicted_s: float, held_s: float) -> None:
    pace.start(predicted_s)
    pace.hold(never)
    assert clock.now_s == pytest.approx(held_s)
    assert len(clock.naps) <= 5 + predicted_s / 0.004


def test_planning_begins_when_the_step_is_over_before(pace: Pace, clock: Time) -> None:
    for ready_s, held_s in [(0.01, 0.125), (0.8, 0.804)]:
        clock.now_s = 0.0
        pace.start(1.0)
        pace.hold(lambda ready_s=ready_s: clock.now_s >= ready_s)  # type: ignore[misc]
        assert clock.now_s == pytest.approx(held_s, abs=0.004)


def run_step(pace: Pace, clock: Time, predicted_s: float, took_s: float) -> float:
    start_s = clock.now_s
    ready: Callable[[], bool] = lambda: clock.now_s - start_s >= took_s  # noqa: E731
    pace.start(predicted_s)
    pace.hold(ready)
    held_s = clock.now_s - start_s
    clock.now_s = max(clock.now_s, start_s + took_s)
    pace.end()
    return held_s / took_s


@pytest.mark.parametrize("took_s", [0.002, 0.02, 0.5])
def test_wrong_predictions_are_corrected(pace: Pace, clock: Time, took_s: float) -> None:
    for _ in range(20):
        share = run_step(pace, clock, 0.02, took_s)
    assert 0.65 < share < 0.97
