"""Whatever breaks, only those who must are hurt, and nobody is left waiting."""

import logging
import threading

import pytest

from s2l_jax.core.errors import InternalError, Unavailable
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import SampledToken, StepPlan, StepResult
from s2l_jax.engine.errors import KVLost
from s2l_jax.orchestrator.events import SinkEvent, TokenEvent
from tests.fakes import FakeEngine
from tests.orchestrator.harness import TIMEOUT_S, Gate, Recorder, wait_until, world


class FailingHook:
    """Raises once a step serves the session named `bad`."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, plan: StepPlan) -> None:
        if any(row.session_id == "bad" for row in (*plan.chunks, *plan.samples)):
            raise self.error


def test_a_failed_step_fails_its_sessions_only(caplog: pytest.LogCaptureFixture) -> None:
    with world(hook=FailingHook(ValueError("device on fire"))) as w:
        idle = Recorder()
        w.orchestrator.open(sink=idle, session_id="idle", content="computed before")
        wait_until(lambda: w.orchestrator.stats().scheduler.sessions == {"waiting_context": 1})
        error = w.ask("a", session_id="bad").error
        assert isinstance(error, InternalError)
        assert "device on fire" in str(error)
        w.orchestrator.finish("idle")
        assert idle.ids == w.engine.reference_output(list(b"computed before"), 8)
        assert w.ask("again").done
        w.check_empty()
        assert w.orchestrator.stats().counters.step_failures == 1
    records = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(records) == 1
    assert "bad" in records[0].getMessage()
    assert records[0].exc_info is not None


class ForgettingEngine(FakeEngine):
    """Loses all KV with the first step that serves the session named `bad`."""

    def submit(self, plan: StepPlan, contexts: object = None) -> None:
        try:
            super().submit(plan)
        except KVLost:
            self.lose_kv()
            raise


def test_lost_kv_is_computed_again_for_those_who_were_in_no_step() -> None:
    with world(hook=FailingHook(KVLost("the pool is gone")), engine_type=ForgettingEngine) as w:
        idle = Recorder()
        w.orchestrator.open(sink=idle, session_id="idle", content="computed before")
        wait_until(lambda: w.orchestrator.stats().scheduler.sessions == {"waiting_context": 1})
        error = w.ask("a", session_id="bad").error
        assert isinstance(error, InternalError)
        assert "the pool is gone" in str(error)
        w.orchestrator.append("idle", ", and behind it")
        w.orchestrator.finish("idle")
        assert idle.ids == w.engine.reference_output(list(b"computed before, and behind it"), 8)
        assert idle.done.stats.recomputed_tokens == len("computed before")
        assert w.ask("again").ids == w.engine.reference_output(list(b"again"), 8)
        w.check_empty()


@pytest.mark.parametrize("stage", ["hook", "collect_hook"])
def test_a_failed_step_takes_the_one_beside_it_and_no_more(stage: str) -> None:
    """Three sessions decode; one of them makes a step fail while the step before or behind it is outstanding."""
    idle, gate = Recorder(), Gate()

    def fail(plan: StepPlan) -> None:
        if plan.step_id == 12:
            raise ValueError("device on fire")
        if plan.step_id == 2:  # the first to decode waits for the others
            gate(plan)

    with world(**{stage: fail}) as w:  # type: ignore[arg-type]
        w.orchestrator.open(sink=idle, session_id="idle", content="computed before")
        wait_until(lambda: w.orchestrator.stats().scheduler.sessions == {"waiting_context": 1})
        decoding = [w.ask(f"{i}", params=SamplingParams(max_tokens=40, ignore_eos=True)) for i in range(3)]
        gate.opened.set()
        assert all(isinstance(sink.error, InternalError) for sink in decoding)
        assert w.orchestrator.stats().counters.step_failures == 2
        w.orchestrator.finish("idle")
        assert idle.ids == w.engine.reference_output(list(b"computed before"), 8)
        assert w.ask("again").ids == w.engine.reference_output(list(b"again"), 8)
        w.check_empty()


def test_a_sink_that_raises_loses_its_session_only(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[SinkEvent] = []

    def sink(event: SinkEvent) -> None:
        calls.append(event)
        if isinstance(event, TokenEvent):
            raise OSError("broken pipe")

    with world() as w:
        w.orchestrator.open(sink=sink, content="a", session_id="broken", final=True)
        assert w.ask("b").ids == w.engine.reference_output(list(b"b"), 8)
        wait_until(lambda: w.orchestrator.stats().sessions_open == 0)
        w.check_empty()
        assert w.orchestrator.stats().counters.sessions_failed == 1
    assert sum(isinstance(event, TokenEvent) for event in calls) == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "broken" in caplog.text


def test_a_sink_may_cancel_its_own_session() -> None:
    with world() as w:
        recorder = Recorder()

        def sink(event: SinkEvent) -> None:
            recorder(event)
            if isinstance(event, TokenEvent):
                w.orchestrator.cancel("s")

        w.orchestrator.open(sink=sink, session_id="s", content="a", final=True)
        assert recorder.done.finish_reason == "cancelled"
        assert len(recorder.tokens) == 1
        w.check_empty()


def test_logits_that_are_not_finite_fail_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    with world() as w:
        collect = w.engine.collect

        def broken() -> StepResult:
            result = collect()
            return StepResult(result.plan, tuple(SampledToken(-1) for _ in result.tokens))

        monkeypatch.setattr(w.engine, "collect", broken)
        error = w.ask("a").error
        assert isinstance(error, InternalError)
        assert "finite" in str(error)
        w.check_empty()


def test_output_without_text_fails_the_session_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_text(self: object, token_id: int, *, skip_special: bool = True) -> bytes:
        raise KeyError(token_id)

    with world() as w:
        monkeypatch.setattr("s2l_jax.models.tokenizer.ByteTokenizer.token_bytes", no_text)
        assert isinstance(w.ask("a").error, InternalError)
        w.check_empty()
        monkeypatch.undo()
        assert w.ask("a").done


def test_content_that_cannot_be_tokenized_is_an_internal_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, text: str) -> None:
        raise RuntimeError("tokenizer crashed")

    with world() as w:
        sink = Recorder()
        w.orchestrator.open(sink=sink, session_id="s", content="a")
        monkeypatch.setattr("s2l_jax.models.tokenizer.ByteTokenizer.encode_pieces", broken)
        with pytest.raises(InternalError, match="tokenizer crashed"):
            w.orchestrator.append("s", "b", seq=2)
        monkeypatch.undo()
        w.orchestrator.append("s", "c", seq=2, final=True)
        assert sink.ids == w.engine.reference_output(list(b"ac"), 8)


def test_a_dead_engine_thread_fails_all_and_refuses_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with world() as w:
        sink = Recorder()
        w.orchestrator.open(sink=sink, session_id="s")

        def broken(*args: object) -> None:
            raise RuntimeError("scheduler is inconsistent")

        monkeypatch.setattr(w.scheduler, "commit", broken)
        assert isinstance(w.ask("a").error, Unavailable)
        assert isinstance(sink.error, Unavailable)
        assert "scheduler is inconsistent" in str(sink.error)
        for call in (
            lambda: w.orchestrator.open(sink=Recorder()),
            lambda: w.orchestrator.append("s", "a"),
            lambda: w.orchestrator.finish("s"),
        ):
            with pytest.raises(Unavailable, match="restarted"):
                call()
        w.orchestrator.cancel("s")
        assert w.orchestrator.drain(0.1)
    assert "CRITICAL" in [record.levelname for record in caplog.records]


def test_a_failed_warm_up_is_raised_by_start() -> None:
    with pytest.raises(Unavailable, match="no memory"), world(warmup_error=MemoryError("no memory")):
        pass


def test_close_with_a_step_in_flight_ends_everybody() -> None:
    gate = Gate()
    with world(hook=gate) as w:
        sink = w.ask("a")
        assert gate.entered.wait(TIMEOUT_S)
        timer = threading.Timer(0.1, gate.opened.set)
        timer.start()
        w.orchestrator.close()
        timer.join()
        assert isinstance(sink.error, Unavailable)
        with pytest.raises(Unavailable, match="shut down"):
            w.orchestrator.open(sink=Recorder())
        w.check_empty()


def test_close_does_not_wait_forever_for_a_stuck_step(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    with world(hook=gate) as w:
        sink = w.ask("a")
        assert gate.entered.wait(TIMEOUT_S)
        w.orchestrator.close(0.05)
        assert isinstance(sink.error, Unavailable)
        assert "left behind" in caplog.text
        gate.opened.set()
