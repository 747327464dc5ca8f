"""Records add up whatever the order in which threads report."""

import numpy as np
import pytest

from s2l_jax.core.errors import AlreadyExists
from s2l_jax.core.ids import SessionId, SlotId
from s2l_jax.core.outcome import Ack
from s2l_jax.core.plan import Chunk, StepPlan, StepResult, StepTiming
from s2l_jax.orchestrator.events import DoneEvent, TokenEvent
from s2l_jax.orchestrator.observer import Op, Opening
from serving.metrics.meters import Meters
from serving.watch.book import Book, SessionNotes
from serving.watch.record import Phase
from tests.orchestrator.harness import world

NAME = SessionId("s")
TOKEN = TokenEvent((1,), "a")


def _open(book: Book, *, final: bool = False) -> SessionNotes:
    notes = book.opening(Opening(NAME, "", 8, final, 1.0))
    _change(notes, "open", final=final, now_s=1.0)
    return notes


def _change(notes: SessionNotes, op: Op, *, final: bool = False, now_s: float, kept: int = 10) -> None:
    notes.changed(op, Ack(NAME, 1, 10, kept, 0), final=final, now_s=now_s)


def _plan(step_id: int, start: int, end: int) -> StepPlan:
    table = np.zeros(4, np.int32)
    return StepPlan(step_id, (Chunk(NAME, SlotId(0), start, np.zeros(end - start, np.int32), table),), ())


def _value(book: Book, name: str, suffix: str, **labels: str) -> float:
    observed = book.meters.observed(name)
    assert observed is not None
    (found,) = [s.value for s in observed.samples if s.name.endswith(suffix) and s.labels == labels]
    return found


def test_what_is_computed_again_is_told_from_what_is_new_and_has_its_price() -> None:
    book = Book(Meters())
    notes = _open(book)
    for index, (start, end) in enumerate(((0, 10), (4, 12), (12, 14))):
        plan = _plan(index, start, end)
        book.submitted(plan, 2.0 + index, 0)
        book.collected(StepResult(plan, (), StepTiming(0.0, 0.05, 0.0)), 2.4 + index, 0)
    assert _value(book, "s2l_prefill_tokens_total", "_total", **{"pass": "first"}) == 10 + 2 + 2
    assert _value(book, "s2l_prefill_tokens_total", "_total", **{"pass": "again"}) == 6
    assert book.meters.preempt_actual_s == pytest.approx(3 * 0.05 + 0.4 * 6 / 8)
    assert book.meters.preempt_actual_count == 3
    record = book.open["s"]
    assert (record.prefill_steps, record.prefill_tokens, record.recomputed_tokens) == (3, 20, 6)
    assert record.prefill_s == pytest.approx(1.2)
    _change(notes, "update", now_s=6.0, kept=5)
    book.submitted(_plan(4, 5, 10), 7.0, 0)  # replaced, so not again
    assert record.recomputed_tokens == 6


def test_a_step_that_failed_holds_no_session_for_ever() -> None:
    book = Book(Meters())
    _open(book)
    lost, plan = _plan(1, 0, 4), _plan(2, 0, 8)
    book.submitted(lost, 2.0, 0)
    assert book.open["s"].phase is Phase.PREFILLING
    book.submitted(plan, 3.0, 0)
    book.collected(StepResult(plan, ()), 4.0, 0)
    assert book.open["s"].in_flight == 0
    assert book.open["s"].phase is Phase.ARRIVING
    assert book.counts().phases[Phase.PREFILLING] == 0


def test_a_token_that_is_quicker_than_the_news_of_its_completion_is_timed_once() -> None:
    book = Book(Meters())
    notes = _open(book)
    notes.emitted(TOKEN, 5.5)
    assert _value(book, "s2l_time_to_first_token_seconds", "_count") == 0
    _change(notes, "finish", final=True, now_s=5.0)
    assert _value(book, "s2l_time_to_first_token_seconds", "_count") == 1
    assert _value(book, "s2l_time_to_first_token_seconds", "_sum") == pytest.approx(0.5)
    assert _value(book, "s2l_ttft_from_open_seconds", "_sum") == pytest.approx(4.5)
    assert book.counts().complete == 1


def test_output_that_is_quicker_than_the_news_of_the_opening_leaves_nothing_behind() -> None:
    with world() as w:
        stats = w.ask("abc").done.stats
    book = Book(Meters())
    notes = book.opening(Opening(NAME, "", 8, True, 1.0))
    notes.emitted(TOKEN, 2.0)
    notes.emitted(DoneEvent("length", stats), 3.0)
    _change(notes, "open", final=True, now_s=1.0)
    assert not book.open
    counts = book.counts()
    assert counts.complete == 0
    assert set(counts.phases.values()) == {0}
    assert _value(book, "s2l_time_to_first_token_seconds", "_sum") == pytest.approx(1.0)


def test_a_second_session_of_a_name_that_is_refused_does_not_touch_the_first() -> None:
    book = Book(Meters())
    _open(book)
    second = book.opening(Opening(NAME, "", 8, False, 2.0))
    second.refused(AlreadyExists("s is open already"))
    assert book.open["s"].opening.now_s == 1.0
    assert book.counts().phases[Phase.ARRIVING] == 1
