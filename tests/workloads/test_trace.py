import gzip
import json

import pytest

from workloads.trace import (
    Event,
    Header,
    TraceError,
    TraceWriter,
    check_trace,
    read_events,
    read_trace,
    write_trace,
)

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
        Event(2.5, "b", "update", parts=(("page 7", 512), ("page 9", 3))),
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
        ([{**OPEN, "parts": [["a", 1], ["b"]]}], 2, "parts is expected to be a list of [name, count]"),
        ([{**OPEN, "parts": [["a", 1.5]]}], 2, "parts is expected to be a list of [name, count]"),
        ([{**OPEN, "parts": [["a", 1]], "n_tokens": 3}], 2, "n_tokens and parts are given"),
        (
            [{**OPEN, "text": "xy"}, {**FINISH, "op": "update", "text": "z", "keep_chars": 3}],
            3,
            "keep_chars is 3, expected 2",
        ),
        (
            [{**OPEN, "parts": [["a", 4]]}, {**FINISH, "op": "update", "n_tokens": 1, "keep_tokens": 5}],
            3,
            "expected 4 at",
        ),
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


def test_all_problems_are_found(tmp_path):
    path = tmp_path / "t.jsonl"
    lines = [
        {**OPEN, "t_s": 5.0},
        {**OPEN, "session": "b"},  # goes back
        {**OPEN, "session": "b"},  # again
        "nonsense",
        {**FINISH, "session": "c", "t_s": 1.0},
        {**FINISH, "t_s": 6.0},
    ]
    path.write_text(HEADER + "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
    checked = check_trace(path)
    places = [problem.removeprefix(f"{path}:").split(":")[0] for problem in checked.problems]
    assert places == ["3", "4", "5", "6", "7"]
    assert "t_s is 1.0, expected at least 5.0" in checked.problems[0]
    assert "an open session" in checked.problems[1]
    assert "never opened" in checked.problems[3]
    assert "without a finish for session 'b'" in checked.problems[4]
    assert len(check_trace(path, 2).problems) == 2


def test_a_valid_trace_has_no_problems(tmp_path):
    path = tmp_path / "t.jsonl"
    write_trace(path, Header("t", details={"made_up": "chunks"}), [Event(0.0, "a", "open"), Event(2.5, "a", "finish")])
    checked = check_trace(path)
    assert (checked.problems, checked.sessions, checked.events, checked.end_s) == ((), 1, 2, 2.5)
    assert checked.header.made_up == "chunks"
    path.write_text(HEADER)
    assert check_trace(path).problems == (f"{path}: no events; expected at least one session",)


def test_compressed_traces(tmp_path):
    events = [Event(0.0, "a", "open", text="x" * 5000), Event(2.5, "a", "finish")]
    packed, plain = tmp_path / "t.jsonl.gz", tmp_path / "t.jsonl"
    for path in (packed, plain, tmp_path / "again.gz"):
        write_trace(path, Header("t"), events)
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    assert packed.read_bytes() == (tmp_path / "again.gz").read_bytes()  # so that equal traces have equal hashes
    assert list(read_trace(packed).events) == events
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(TraceError, match="cannot be read after line"):
        read_trace(packed)
    packed.write_bytes(b"not compressed")
    with pytest.raises(TraceError, match="cannot be read after line 0"):
        read_trace(packed)
