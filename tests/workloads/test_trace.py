import json

import pytest

from workloads.trace import Event, Header, TraceError, TraceWriter, read_events, read_trace, write_trace

HEADER = '{"s2l_trace": 1, "name": "t"}\n'


def test_round_trip_keeps_everything(tmp_path):
    events = [
        Event(0.0, "a", "open", text="Grüße, 世界\n", max_tokens=7, note="why?"),
        Event(0.5, "b", "open", max_tokens=1),
        Event(0.6, "a", "append", text=""),
        Event(0.75, "b", "append", tokens=(1, 2, 3)),
        Event(1.0, "a", "update", text="x", keep_chars=5),
        Event(1.25, "b", "update", n_tokens=9, keep_tokens=2),
        Event(2.0, "a", "finish"),
        Event(3.5, "b", "finish"),
    ]
    path = tmp_path / "deep" / "t.jsonl"
    header = Header("name", "a source", {"seed": 3})
    write_trace(path, header, events)
    trace = read_trace(path)
    assert trace.header == header
    assert list(trace.events) == events
    assert [session.session for session in trace.sessions] == ["a", "b"]
    assert (trace.sessions[1].arrival_s, trace.sessions[1].complete_s) == (0.5, 3.5)
    assert len(trace.sha256) == 64


def test_events_are_written_in_order_of_time(tmp_path):
    path = tmp_path / "t.jsonl"
    late = [Event(5.0, "a", "open"), Event(6.0, "a", "finish")]
    early = [Event(1.0, "b", "open"), Event(7.0, "b", "finish")]
    write_trace(path, Header("t"), late + early)
    assert [event.t_s for event in read_trace(path).events] == [1.0, 5.0, 6.0, 7.0]


def test_reading_is_lazy(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(HEADER + '{"t_s": 0, "session": "a", "op": "open"}\nnonsense\n')
    items = read_events(path)
    assert next(items) == Header("t")
    assert next(items) == Event(0.0, "a", "open")
    with pytest.raises(TraceError, match=r"t\.jsonl:3: not JSON"):
        next(items)


def test_a_trace_that_was_not_finished_does_not_appear(tmp_path):
    with pytest.raises(RuntimeError), TraceWriter(tmp_path / "t.jsonl", Header("t")) as writer:
        writer.write(Event(0.0, "a", "open"))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


OPEN = {"t_s": 1.0, "session": "a", "op": "open"}
FINISH = {"t_s": 2.0, "session": "a", "op": "finish"}


@pytest.mark.parametrize(
    ("lines", "number", "message"),
    [
        ([{**OPEN, "op": "close"}], 2, "op is 'close', expected one of open, append, update, finish"),
        ([{**OPEN, "session": 3}], 2, "session is 3, expected a non-empty string"),
        ([{**OPEN, "t_s": -1}], 2, "t_s is -1, expected seconds"),
        ([{**OPEN, "t_s": float("nan")}], 2, "t_s is nan"),
        ([{**OPEN, "t_s": True}], 2, "t_s is True"),
        ([{**OPEN, "colour": "red"}], 2, "unknown field 'colour'"),
        ([{**OPEN, "text": "x", "tokens": [1]}], 2, "text and tokens are given"),
        ([{**OPEN, "text": 5}], 2, "text is a int"),
        ([{**OPEN, "tokens": [1, -2]}], 2, "tokens is expected to be a list of integers"),
        ([{**OPEN, "tokens": [True]}], 2, "tokens is expected to be a list of integers"),
        ([{**OPEN, "max_tokens": 0}], 2, "max_tokens is 0, expected an integer, 1 or more"),
        ([{**OPEN, "keep_chars": 1}], 2, "keep_chars with open, expected only with update"),
        ([["a"]], 2, "is a list; expected a JSON object"),
        ([OPEN, {**FINISH, "t_s": 0.5}], 3, "t_s is 0.5, expected at least 1.0"),
        ([OPEN, OPEN], 3, "open for 'a', an open session"),
        ([FINISH], 2, "a session that was never opened"),
        ([OPEN, FINISH, FINISH], 4, "which has finished"),
        ([OPEN, {**FINISH, "op": "append"}], 3, "append has no content"),
        ([OPEN, {**FINISH, "text": "x"}], 3, "finish carries text"),
        ([{**OPEN, "text": "x"}, {**FINISH, "op": "append", "n_tokens": 3}], 3, "mixes text and tokens"),
        ([OPEN, {**FINISH, "op": "update", "text": "x", "keep_tokens": 3}], 3, "keep_chars goes with text"),
        ([OPEN], 2, "ends without a finish for session 'a'"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, lines, number, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(HEADER + "".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    assert str(caught.value).startswith(f"{path}:{number}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ('{"t_s": 0}\n', '"s2l_trace": 1, found None'),
        ('{"s2l_trace": 9}\n', "found 9"),
        (HEADER, "no events"),
    ],
)
def test_a_wrong_file_says_what_was_expected(tmp_path, content, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(TraceError, match=message):
        read_trace(path)


def test_a_missing_file_is_an_error_of_ours(tmp_path):
    with pytest.raises(TraceError, match="expected a trace file"):
        read_trace(tmp_path / "none.jsonl")
