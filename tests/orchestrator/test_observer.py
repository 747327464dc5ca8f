"""An observer is told everything in order, and can hurt nobody."""

import logging
from typing import Any

import pytest

from s2l_jax.core.errors import AlreadyExists, S2LError
from s2l_jax.core.outcome import Ack
from s2l_jax.core.plan import StepPlan, StepResult
from s2l_jax.orchestrator.events import DoneEvent, FailedEvent, SinkEvent, TokenEvent
from s2l_jax.orchestrator.observer import Opening
from tests.orchestrator.harness import Recorder, wait_until, world


class Diary:
    """An observer that writes everything down."""

    def __init__(self) -> None:
        self.lines: list[tuple[Any, ...]] = []
        self.submitted_plans: list[StepPlan] = []
        self.collected_plans: list[StepPlan] = []

    def opening(self, opening: Opening) -> "Diary":
        self.lines.append(("opening", opening.session_id, opening.tenant, opening.final))
        return self

    def changed(self, op: str, ack: Ack, *, final: bool, now_s: float) -> None:
        self.lines.append((op, ack.context_tokens, ack.kept_tokens, final))

    def refused(self, error: S2LError) -> None:
        self.lines.append(("refused", type(error)))

    def emitted(self, event: SinkEvent, now_s: float) -> None:
        self.lines.append((type(event),))

    def submitted(self, plan: StepPlan, now_s: float, engine: int) -> None:
        self.submitted_plans.append(plan)

    def collected(self, result: StepResult, now_s: float, engine: int) -> None:
        self.collected_plans.append(result.plan)


def test_sees_a_stream_from_its_opening_to_its_end() -> None:
    with world() as w:
        diary, sink = Diary(), Recorder()
        w.orchestrator.observe(diary)
        w.orchestrator.open(sink=sink, session_id="s", content="ab", tenant="t")
        w.orchestrator.append("s", "cd")
        w.orchestrator.append("s", "cd", seq=2)  # a repeat changes nothing
        w.orchestrator.update("s", "x", keep_chars=3)
        w.orchestrator.finish("s")
        assert len(sink.ids) == 8
        w.check_empty()
    output = [(TokenEvent,)] * 8
    kinds = [line for line in diary.lines if len(line) > 1 or line == (TokenEvent,)]
    changes = [("opening", "s", "t", False), ("open", 2, 0, False), ("append", 4, 2, False), ("update", 4, 3, False)]
    assert [line for line in kinds if line != (TokenEvent,)] == [*changes, ("finish", 4, 4, True)]
    assert [line for line in diary.lines if line == (TokenEvent,)] == output
    assert diary.lines[-1] == (DoneEvent,)
    assert diary.submitted_plans == diary.collected_plans
    assert sum(plan.tokens for plan in diary.collected_plans) >= 4 + 7


def test_hears_of_refusals_and_failures() -> None:
    with world() as w:
        diary, sink = Diary(), Recorder()
        w.orchestrator.observe(diary)
        w.orchestrator.open(sink=sink, session_id="s", content="ab")
        with pytest.raises(AlreadyExists):
            w.orchestrator.open(sink=Recorder(), session_id="s")
        assert diary.lines[-1] == ("refused", AlreadyExists)
        w.orchestrator.cancel("s")
        assert diary.lines[-1] == (DoneEvent,)

        def raises(event: SinkEvent) -> None:
            raise ValueError("a client's sink")

        w.orchestrator.open(sink=raises, session_id="r", content="ab", final=True)
        wait_until(lambda: w.orchestrator.stats().sessions_open == 0)
        assert diary.lines[-1] == (FailedEvent,)
        w.check_empty()


class Broken(Diary):
    """Raises whenever it can."""

    def changed(self, op: str, ack: Ack, *, final: bool, now_s: float) -> None:
        raise ValueError("changed")

    def refused(self, error: S2LError) -> None:
        raise ValueError("refused")

    def emitted(self, event: SinkEvent, now_s: float) -> None:
        raise ValueError("emitted")

    def submitted(self, plan: StepPlan, now_s: float, engine: int) -> None:
        raise ValueError("submitted")

    def collected(self, result: StepResult, now_s: float, engine: int) -> None:
        raise ValueError("collected")


class Stillborn(Broken):
    """Does not even begin."""

    def opening(self, opening: Opening) -> Diary:
        raise ValueError("opening")


@pytest.mark.parametrize("observer", [Broken, Stillborn])
def test_its_defects_are_logged_and_hurt_nobody(observer: type[Diary], caplog: pytest.LogCaptureFixture) -> None:
    with world() as w:
        w.orchestrator.observe(observer())
        assert w.ask("abc").ids == w.engine.reference_output(list(b"abc"), 8)
        w.check_empty()
    texts = {str(record.exc_info[1]) for record in caplog.records if record.exc_info and record.exc_info[1]}
    assert texts >= {"submitted", "collected"}
    assert texts & {"opening", "emitted"}
    assert all(record.levelno == logging.ERROR for record in caplog.records)
