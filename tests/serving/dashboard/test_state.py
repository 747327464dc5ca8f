"""The live page's state is true, bounded, and shows no tenant the names of another's sessions."""

import json
import time
from typing import Any

from s2l_jax.core.ids import SessionId
from s2l_jax.core.outcome import Ack, SchedulerStats
from s2l_jax.core.params import SamplingParams
from s2l_jax.orchestrator.counters import Counters, OrchestratorStats
from s2l_jax.orchestrator.events import TokenEvent
from s2l_jax.orchestrator.observer import Opening
from serving.dashboard.history import MOST_SAMPLES, History
from serving.dashboard.state import MOST_ROWS, state_of
from serving.metrics.meters import Meters
from serving.metrics.readings import ServerFacts
from serving.watch.book import Book, SessionNotes
from serving.watch.observation import observe
from serving.watch.record import MOST_CHUNKS, MOST_PHASES, Phase
from tests.orchestrator.harness import Recorder, wait_until, world

FACTS = ServerFacts("fake", block_size=4, num_blocks=128)
STATS = OrchestratorStats(Counters(), 0, 0, SchedulerStats({}, 100, 20, 8, 128, 1))


def _state(book: Book, now_s: float, **changes: Any) -> dict[str, Any]:
    history = History(book, lambda: STATS, lambda: now_s)
    given: dict[str, Any] = {"now_s": now_s, "window_s": 60, "tenant": ""} | changes
    return state_of(book, STATS, FACTS, history, **given)


def _open(book: Book, name: str, now_s: float, *, tenant: str = "", final: bool = False) -> SessionNotes:
    notes = book.opening(Opening(SessionId(name), tenant, 8, final, now_s))
    notes.changed("open", Ack(SessionId(name), 1, 10, 0, 0), final=final, now_s=now_s)
    return notes


def test_shows_what_a_real_orchestrator_did() -> None:
    with world() as w:
        seen = observe(w.orchestrator, FACTS)
        sink = Recorder()
        w.orchestrator.open(sink=sink, session_id="abcdefghij", content="abcd", params=SamplingParams(max_tokens=3))
        wait_until(lambda: w.orchestrator.stats().scheduler.sessions == {"waiting_context": 1})
        seen.history.sample()
        w.orchestrator.append("abcdefghij", "ef", final=True)
        assert sink.done
        stats, now_s = w.orchestrator.stats(), time.monotonic()
        state = state_of(seen.book, stats, FACTS, seen.history, now_s=now_s, window_s=60, tenant="")
    (row,) = state["sessions"]["rows"]
    codes = [code for code, _ in row["bars"]]
    assert codes[0] == 0 and codes[-1] == 3  # arriving first, decoding last
    assert 1 in codes
    assert (row["id"], row["context_tokens"], row["output_tokens"], row["reason"]) == ("abcdefgh", 6, 3, "length")
    assert row["open_s"] <= row["bars"][0][1] <= row["bars"][-1][1] <= row["end_s"] <= now_s + 0.001  # rounded
    assert len(row["ticks"]) == 2
    assert state["phases"] == {"arriving": 0, "prefilling": 0, "waiting": 0, "decoding": 0}
    assert state["ttft"]["final"]["sessions"] == sum(state["ttft"]["final"]["counts"]) == 1
    assert 0 < state["ttft"]["final"]["p99"] <= state["ttft"]["open"]["p99"]
    memory = state["memory"]["device"]
    assert memory["held"] + memory["cached"] + memory["free"] == memory["total"] == 128
    (sample,) = state["history"]["samples"]
    assert dict(zip(state["history"]["fields"], sample, strict=True))["held"] == 1


def test_two_thousand_sessions_are_counted_and_those_that_changed_last_are_drawn() -> None:
    book = Book(Meters())
    notes = [_open(book, f"{index:04d}-" + "x" * 100, 1000.0 + index / 1000) for index in range(2000)]
    notes[7].changed("finish", Ack(SessionId("0007-"), 2, 10, 10, 0), final=True, now_s=1009.0)
    state = _state(book, 1010.0)
    assert (state["phases"]["arriving"], state["phases"]["waiting"]) == (1999, 1)
    assert state["sessions"]["in_window"] == 2000
    names = [row["id"] for row in state["sessions"]["rows"]]
    assert names == [f"{index:04d}-xxx" for index in (*range(1999, 2000 - MOST_ROWS, -1), 7)]
    assert len(json.dumps(state)) < 100_000


def test_a_session_that_changes_for_ever_stays_small() -> None:
    book = Book(Meters())
    notes = _open(book, "s", 0.0)
    record = book.open["s"]
    for index in range(5000):
        now_s = 1.0 + index
        notes.changed("append", Ack(SessionId("s"), index + 2, 10, 10, 0), final=False, now_s=now_s)
        with book.lock:
            book._move(record, Phase.PREFILLING if index % 2 else Phase.ARRIVING, now_s)
    notes.changed("finish", Ack(SessionId("s"), 5002, 10, 10, 0), final=True, now_s=5001.0)
    for index in range(100):
        notes.emitted(TokenEvent((1,), "a"), 5002.0 + index)
    assert len(record.phases) <= MOST_PHASES + 1
    assert len(record.chunks) == MOST_CHUNKS
    assert record.phase is Phase.DECODING
    assert book.counts().phases == {"arriving": 0, "prefilling": 0, "waiting": 0, "decoding": 1}
    assert len(json.dumps(_state(book, 5103.0, window_s=300))) < 10_000


def test_a_tenant_sees_names_of_its_own_sessions_only() -> None:
    book = Book(Meters())
    _open(book, "acme/mine", 1.0, tenant="acme")
    _open(book, "umbra/secret", 2.0, tenant="umbra")
    rows = _state(book, 3.0, tenant="acme")["sessions"]["rows"]
    assert [(row["tenant"], row["id"]) for row in rows] == [("", ""), ("acme", "mine")]
    assert "secret" not in json.dumps(_state(book, 3.0, tenant="acme"))
    assert "umbra" not in json.dumps(_state(book, 3.0, tenant="acme"))


def test_history_forgets_what_is_old() -> None:
    now = [0.0]
    history = History(Book(Meters()), lambda: STATS, lambda: now[0])
    for index in range(MOST_SAMPLES + 100):
        now[0] = float(index)
        history.sample()
    assert len(history.since(-1.0)) == MOST_SAMPLES
    assert [moment.at_s for moment in history.since(697.0)] == [698.0, 699.0]
