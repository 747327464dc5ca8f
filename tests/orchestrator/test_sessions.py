"""What one session does: pieces, updates, sequence numbers, output."""

import math
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_jax.core.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from s2l_jax.core.ids import SessionId
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import StepPlan
from s2l_jax.orchestrator.config import OrchestratorConfig
from s2l_jax.orchestrator.events import ProgressEvent
from tests.orchestrator.harness import EOS, TIMEOUT_S, FakeClock, Gate, Recorder, World, wait_until, world

TEXT = "Grüße aus Köln: the context is still arriving. "


@pytest.fixture
def w() -> Iterator[World]:
    with world() as made:
        yield made
        made.check_empty()


def expected_ids(w: World, text: str, count: int = 8) -> list[int]:
    return w.engine.reference_output(list(text.encode()), count)


def test_text_in_pieces_answers_like_text_at_once(w: World) -> None:
    sink = Recorder()
    ack = w.orchestrator.open(sink=sink, session_id="s", content=TEXT[:3])
    assert (ack.session_id, ack.seq, ack.context_tokens) == ("s", 1, 4)
    for piece in (TEXT[3:4], "", TEXT[4:]):
        ack = w.orchestrator.append("s", piece)
    assert ack.context_tokens == len(TEXT.encode())
    assert w.orchestrator.finish("s").seq == 5
    assert sink.ids == w.ask(TEXT).ids == expected_ids(w, TEXT)
    assert sink.text == bytes(sink.ids).decode()
    assert sink.done.finish_reason == "length"
    assert sink.done.stats.prompt_tokens == len(TEXT.encode())
    assert len(sink.tokens) == 8


def test_an_updated_context_answers_like_the_last_version(w: World) -> None:
    sink = Recorder()
    w.orchestrator.open(sink=sink, session_id="s", content="first version, quite long")
    w.orchestrator.update("s", "second", keep_chars=0)
    w.orchestrator.update("s", "ular", keep_chars=3)
    ack = w.orchestrator.update("s", "", keep_chars=5)
    assert ack.context_tokens == ack.kept_tokens == 5
    w.orchestrator.append("s", "!", final=True)
    assert sink.ids == expected_ids(w, "secul!")


def test_token_sessions_and_begin_of_sequence(w: World) -> None:
    sink = Recorder()
    w.orchestrator.open(sink=sink, session_id="s", add_bos=True)
    w.orchestrator.append("s", [1, 2, 3])
    w.orchestrator.update("s", [4], keep_tokens=2, final=True)
    assert sink.ids == w.engine.reference_output([256, 1, 2, 4], 8)
    assert w.ask(None, add_bos=True).ids == w.engine.reference_output([256], 8)  # type: ignore[arg-type]


def test_repeats_change_nothing_and_gaps_are_errors(w: World) -> None:
    sink = Recorder()
    w.orchestrator.open(sink=sink, session_id="s", content="a")
    first = w.orchestrator.append("s", "b", seq=2)
    again = w.orchestrator.append("s", "b", seq=2)
    assert again.duplicate
    assert (again.seq, again.context_tokens) == (first.seq, first.context_tokens) == (2, 2)
    with pytest.raises(InvalidArgument, match="event 4 came after 2"):
        w.orchestrator.append("s", "d", seq=4)
    with pytest.raises(InvalidArgument, match="event 9 came after 2"):
        w.orchestrator.cancel("s", seq=9)
    w.orchestrator.cancel("s", seq=2)
    w.orchestrator.update("s", "c", keep_chars=2, seq=3)
    assert w.orchestrator.append("s", "late", seq=2).duplicate
    w.orchestrator.finish("s", seq=4)
    assert sink.ids == expected_ids(w, "abc")


def test_a_repeated_finish_is_acknowledged() -> None:
    gate = Gate()
    with world(hook=gate) as w:
        sink = Recorder()
        w.orchestrator.open(sink=sink, session_id="s", content="a")
        w.orchestrator.finish("s", seq=2)
        assert w.orchestrator.finish("s", seq=2).duplicate
        with pytest.raises(FailedPrecondition, match="declared complete"):
            w.orchestrator.append("s", "b", seq=3)
        gate.opened.set()
        assert sink.ids == expected_ids(w, "a")


def test_a_refused_event_changes_nothing_and_the_session_goes_on(w: World) -> None:
    sink = Recorder()
    w.orchestrator.open(sink=sink, session_id="s", content="a")
    for content in ("x" * 256, [1], "\ud800"):
        with pytest.raises(InvalidArgument):
            w.orchestrator.append("s", content, seq=2)
        with pytest.raises(InvalidArgument):
            w.orchestrator.update("s", content, seq=2)
    with pytest.raises(InvalidArgument, match="context of 257 tokens and max_tokens 8 exceed the limit of 256"):
        w.orchestrator.append("s", "x" * 256, final=True)
    assert w.orchestrator.append("s", "b", seq=2).context_tokens == 2
    w.orchestrator.finish("s", seq=3)
    assert sink.ids == expected_ids(w, "ab")


def test_tenant_priority_and_deadline_reach_the_scheduler() -> None:
    clock = FakeClock()
    with world(clock=clock) as w:
        w.orchestrator.open(sink=Recorder(), session_id="plain")
        w.orchestrator.open(sink=Recorder(), session_id="whenever", first_token_within_s=0)
        w.orchestrator.open(sink=Recorder(), session_id="s", tenant="t", priority=-7, first_token_within_s=2.5)
        opened = [w.scheduler.session(SessionId(name)) for name in ("plain", "whenever", "s")]
        assert [(one.tenant, one.priority, one.deadline_s) for one in opened] == [
            ("", 0, math.inf),
            ("", 0, math.inf),
            ("t", -7, clock.now_s + 2.5),
        ]


def test_a_deadline_that_can_be_met_lets_a_session_go_first() -> None:
    for within_s, served in ((None, ["early", "late"]), (0.3, ["late", "early"])):
        gate = Gate()
        plans: list[StepPlan] = []

        def hook(plan: StepPlan, gate: Gate = gate, plans: list[StepPlan] = plans) -> None:
            plans.append(plan)
            gate(plan)

        # On a clock that stands still: 100 tokens take 0.14 s of `PhysicalCosts`, and are due after twice that.
        with world(clock=FakeClock(), hook=hook) as w:
            sinks = [w.ask("x", session_id="holder", params=SamplingParams(max_tokens=1))]
            assert gate.entered.wait(TIMEOUT_S)
            sinks.append(w.ask("e" * 100, session_id="early"))
            sinks.append(w.ask("l" * 100, session_id="late", first_token_within_s=within_s))
            gate.opened.set()
            assert all(sink.done for sink in sinks)
        assert list(dict.fromkeys(chunk.session_id for plan in plans[1:] for chunk in plan.chunks)) == served


def test_bad_openings_leave_nothing_behind(w: World) -> None:
    sink = Recorder()
    w.orchestrator.open(sink=Recorder(), session_id="taken")
    for error, message, arguments in (
        (AlreadyExists, "'taken' is open", {"session_id": "taken"}),
        (InvalidArgument, "session_id has 0 characters", {"session_id": ""}),
        (InvalidArgument, "session_id has 129 characters", {"session_id": "x" * 129}),
        (InvalidArgument, "max_tokens is 5000, but the limit is 4096", {"params": SamplingParams(max_tokens=5000)}),
        (InvalidArgument, "exceed the limit of 256", {"content": "x" * 250}),
        (InvalidArgument, "token id 258", {"content": [258]}),
        (InvalidArgument, "empty", {"final": True}),
        (InvalidArgument, "priority is 1001, but must be between -1000 and 1000", {"priority": 1001}),
        (InvalidArgument, "first_token_within_s is -1, but must be 0", {"first_token_within_s": -1}),
        (InvalidArgument, "first_token_within_s is nan, .* finite", {"first_token_within_s": math.nan}),
    ):
        with pytest.raises(error, match=message):
            w.orchestrator.open(sink=sink, **arguments)
    w.orchestrator.cancel("taken")
    assert not sink.events


def test_an_empty_context_cannot_be_finished(w: World) -> None:
    sink = Recorder()
    w.orchestrator.open(sink=sink, session_id="s", content="")
    with pytest.raises(InvalidArgument, match="empty"):
        w.orchestrator.finish("s")
    w.orchestrator.append("s", "a", final=True)
    assert sink.ids == expected_ids(w, "a")


def test_ended_and_unknown_sessions(w: World) -> None:
    w.ask("a", session_id="s").done  # noqa: B018 - waits
    for call in (w.orchestrator.finish, lambda name: w.orchestrator.append(name, "b")):
        with pytest.raises(NotFound, match="'s' is not open"):
            call("s")
    w.orchestrator.cancel("s")
    w.orchestrator.cancel("never")


def test_end_of_sequence_has_an_id_and_no_text() -> None:
    with world(alphabet=[ord("a"), EOS]) as w:
        sinks = [w.ask(f"question {i}") for i in range(8)]
        stopped = [sink for sink in sinks if sink.done.finish_reason == "stop"]
        assert stopped
        for sink in stopped:
            assert sink.tokens[-1].ids == (EOS,)
            assert sink.tokens[-1].text == ""
            assert EOS not in sink.ids[:-1]
            assert sink.text == "a" * (len(sink.ids) - 1)
        w.check_empty()


def test_a_stop_token_has_no_text(w: World) -> None:
    ids = expected_ids(w, "question")
    sink = w.ask("question", params=SamplingParams(stop_token_ids=frozenset({ids[-1]})))
    end = ids.index(ids[-1])
    assert sink.ids == ids[: end + 1]
    assert sink.text == bytes(ids[:end]).decode()
    assert sink.done.finish_reason == "stop"


def test_characters_are_never_split() -> None:
    with world(alphabet=list("é".encode())) as w:
        for max_tokens in range(1, 20):
            sink = w.ask("x", params=SamplingParams(max_tokens=max_tokens))
            assert sink.text == bytes(sink.ids).decode("utf-8", "replace")
            assert len(sink.tokens) == max_tokens


def test_logprobs_come_with_their_tokens(w: World) -> None:
    sink = w.ask("x", params=SamplingParams(max_tokens=3, logprobs=2))
    assert [len(event.logprobs) for event in sink.tokens] == [1, 1, 1]
    assert [[len(top) for top in event.top] for event in sink.tokens] == [[2], [2], [2]]


@settings(max_examples=60, deadline=None)
@given(
    question=st.text("xyz", min_size=1, max_size=3),
    stop=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=2),
)
def test_streamed_text_ends_before_the_first_stop_string(ab: World, question: str, stop: list[str]) -> None:
    max_tokens = 12
    whole = bytes(expected_ids(ab, question, max_tokens)).decode()
    ends = {end: max(len(s) for s in stop if whole[:end].endswith(s)) for end in range(1, max_tokens + 1)
            if any(whole[:end].endswith(s) for s in stop)}  # fmt: skip
    sink = ab.ask(question, params=SamplingParams(max_tokens=max_tokens, stop=tuple(stop)))
    if ends:
        end = min(ends)
        assert (sink.text, sink.done.finish_reason) == (whole[: end - ends[end]], "stop")
        assert len(sink.ids) == sink.done.stats.output_tokens == end
    else:
        assert (sink.text, sink.done.finish_reason) == (whole, "length")
    ab.check_empty()


@pytest.fixture(scope="module")
def ab() -> Iterator[World]:
    with world(alphabet=[ord("a"), ord("b")]) as made:
        yield made


def test_progress_is_reported_and_throttled() -> None:
    with world(token_budget=8) as w:
        sink = Recorder()
        w.orchestrator.open(sink=sink, content="x" * 64, final=True)
        assert [event.computed_tokens for event in sink.progress] == [8, 16, 24, 32, 40, 48, 56]
        assert {event.context_tokens for event in sink.progress} == {64}
    with world(token_budget=8, config=OrchestratorConfig(default_max_tokens=8, progress_interval_s=60)) as w:
        sink = w.ask("x" * 64)
        assert sink.done
        assert not any(isinstance(event, ProgressEvent) for event in sink.events)


def test_counters_add_up(w: World) -> None:
    for i in range(3):
        assert len(w.ask(f"{i}").ids) == 8
    sink = Recorder()
    w.orchestrator.open(sink=sink, session_id="s", content="abcdef")
    w.orchestrator.update("s", "xy")
    w.orchestrator.cancel("s")
    assert sink.done.finish_reason == "cancelled"
    wait_until(lambda: w.orchestrator.stats().counters.steps == w.engine.steps)  # one may be on its way
    counters = w.orchestrator.stats().counters
    assert (counters.sessions_opened, counters.sessions_completed, counters.sessions_cancelled) == (4, 3, 1)
    assert (counters.tokens_prompt, counters.tokens_output) == (5, 24)
    assert counters.steps == w.engine.steps
    assert counters.step_tokens == w.engine.tokens
