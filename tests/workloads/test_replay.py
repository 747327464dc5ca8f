import asyncio
import json
import signal

import numpy as np
import pytest
from rich.console import Console

from s2l_jax.core.errors import InvalidArgument
from workloads.replay.job import ReplayConfig, run_job
from workloads.replay.progress import ReplayProgress
from workloads.replay.rows import SessionRow, read_event_rows, read_session_rows
from workloads.replay.runner import INTERRUPTED, Measured, run_replay
from workloads.replay.schedule import arrivals, plan_sessions
from workloads.replay.summary import RunInfo, distribution, read_summary, summarise
from workloads.replay.target import TargetCounters
from workloads.replay.targets import make_target
from workloads.trace import Event, Header, read_trace, write_trace

INFO = RunInfo("stream", 1.0, "fake", "fcfs", "fake-model", 0, "t", "0" * 64)


def replay(target, planned, stop_after_s=None):
    async def run():
        stop = asyncio.Event()
        if stop_after_s is not None:
            asyncio.get_running_loop().call_later(stop_after_s, stop.set)
        return await run_replay(planned, target, stop)

    return asyncio.run(run())


def test_poisson_arrivals_are_those_of_the_seed(make_trace):
    sessions = make_trace(4).sessions * 1000
    drawn_s = np.array(arrivals(sessions, 2.0, seed=3))
    assert drawn_s[0] == 0.0
    assert np.diff(drawn_s).mean() == pytest.approx(0.5, rel=0.05)
    assert drawn_s.tolist() == arrivals(sessions, 2.0, seed=3)
    assert drawn_s.tolist() != arrivals(sessions, 2.0, seed=4)


def test_arrivals_as_recorded_start_at_zero(make_trace):
    assert arrivals(make_trace(3).sessions[1:], None, 0) == pytest.approx([0.0, 0.01])


@pytest.mark.parametrize("qps", [0.0, -1.0, float("inf"), float("nan")])
def test_arrivals_need_a_rate(make_trace, qps):
    with pytest.raises(InvalidArgument, match="qps"):
        arrivals(make_trace(1).sessions, qps, 0)


def test_both_modes_send_the_same_context(make_trace, make_target):
    trace = make_trace(2)
    streamed, waited = make_target(), make_target()
    replay(streamed, plan_sessions(trace.sessions, "stream", 100.0, 0, 256))
    replay(waited, plan_sessions(trace.sessions, "wait", 100.0, 0, 256))
    for session in trace.sessions:
        pieces = streamed.sent[session.session]
        assert [piece.final for piece in pieces] == [False] * 4 + [True]
        (whole,) = waited.sent[session.session]
        assert (whole.op, whole.final) == ("open", True)
        assert whole.content == "".join(piece.content for piece in pieces)


def test_wait_folds_updates_and_made_up_tokens_are_repeatable(tmp_path):
    write_trace(
        tmp_path / "t.jsonl",
        Header("t"),
        [
            Event(0.0, "a", "open", n_tokens=3),
            Event(0.1, "a", "update", tokens=(7, 8), keep_tokens=2),
            Event(0.2, "a", "append", n_tokens=4),
            Event(0.3, "a", "finish"),
        ],
    )
    sessions = read_trace(tmp_path / "t.jsonl").sessions
    (streamed,) = plan_sessions(sessions, "stream", None, 5, 100)
    (waited,) = plan_sessions(sessions, "wait", None, 5, 100)
    first, _, third, last = (piece for _, piece in streamed.pieces)
    assert waited.pieces[0][1].wire_content == [*first.content[:2], 7, 8, *third.content]
    assert (last.op, last.final, last.content) == ("finish", True, None)
    assert all(0 <= token < 100 for token in waited.pieces[0][1].content)
    (other,) = plan_sessions(sessions, "stream", None, 6, 100)
    assert other.pieces[0][1].wire_content != first.wire_content


def test_rows_say_what_users_saw(make_trace, make_target):
    trace = make_trace(3)
    planned = plan_sessions(trace.sessions, "stream", 100.0, 1, 256)
    measured = replay(make_target(), planned)
    assert [row.session for row in measured.sessions] == ["s0", "s1", "s2"]
    for row, plan in zip(measured.sessions, planned, strict=True):
        assert row.completed
        assert (row.output_tokens, len(row.text), row.chunks) == (5, 5, 4)
        assert row.arrival_s == plan.arrival_s
        assert row.last_chunk_s == pytest.approx(plan.arrival_s + 0.08)
        assert row.ttft_final_s == row.first_token_s - row.last_chunk_s
        assert row.ttft_open_s == pytest.approx(row.ttft_final_s + 0.08)
        assert row.ttft_final_s >= 0
        assert row.tpot_s >= 0
        assert (row.server_ttft_open_s, row.server_ttft_final_s) == (0.2, 0.1)
    kinds = [event.kind for event in measured.events if event.session == "s1"]
    assert kinds.count("chunk") == 4
    assert kinds.count("append") == 4
    assert kinds.count("token") == 5
    assert kinds[-1] == "done"


def test_a_slow_server_does_not_slow_arrivals(make_trace, make_target):
    sessions = make_trace(6).sessions
    measured = replay(make_target(char_s=0.0003), plan_sessions(sessions, "wait", 200.0, 1, 256))
    assert max(row.send_lag_s for row in measured.sessions) < 0.05
    finals_s = [row.ttft_final_s for row in measured.sessions]
    assert finals_s[-1] > 3 * finals_s[0], "later sessions queue behind earlier ones"


def test_a_session_that_fails_is_recorded_and_hurts_nobody(make_trace, make_target):
    target = make_target(fail=frozenset({"s1"}))
    measured = replay(target, plan_sessions(make_trace(3).sessions, "stream", 100.0, 1, 256))
    assert [row.error for row in measured.sessions] == ["", "RESOURCE_EXHAUSTED: no room", ""]
    summary = summarise(measured, INFO, TargetCounters(), TargetCounters())
    assert (summary["requests"], summary["completed"], summary["failed"]) == (3, 2, 1)


def test_stopping_keeps_what_was_measured_and_cancels_the_rest(make_trace, make_target):
    target = make_target()
    trace = make_trace(3, gap_s=0.2)
    planned = plan_sessions(trace.sessions[:2], "stream", None, 0, 256)
    planned += plan_sessions(trace.sessions[1:], "wait", None, 0, 256)[1:]
    measured = replay(target, planned, stop_after_s=0.3)
    assert measured.interrupted
    assert measured.wall_s < 0.6
    assert [row.error for row in measured.sessions] == [INTERRUPTED] * 3
    assert sorted(target.cancelled) == ["s0", "s1", "s2"]
    assert {session: len(pieces) for session, pieces in target.sent.items()} == {"s0": 2, "s1": 2}


def test_a_defect_of_the_target_is_not_hidden(make_trace, make_target):
    class Broken(type(make_target())):
        async def run(self, session_id, params, pieces):
            raise ZeroDivisionError
            yield

    with pytest.raises(ZeroDivisionError):
        replay(Broken(), plan_sessions(make_trace(2).sessions, "stream", 100.0, 1, 256))


def test_percentiles_are_numpys():
    values = np.random.default_rng(0).lognormal(size=501)
    got = distribution([*values.tolist(), None])
    want = {"mean": values.mean(), "p50": np.median(values)}
    want |= {name: np.percentile(values, q) for name, q in (("p95", 95), ("p99", 99), ("p999", 99.9))}
    assert got == pytest.approx(want)
    assert distribution([None]) == dict.fromkeys(("mean", "p50", "p95", "p99", "p999"))


def test_summary_adds_up():
    rows = [
        SessionRow("a", "", 0.0, 1.0, 1.5, 2.0, 0.5, 1.5, None, None, 0.01, 100, 9, 110, 5, 15, 1, 3, 0.0, "length"),
        SessionRow("b", "", 0.0, 1.0, error="UNAVAILABLE: gone"),
    ]
    before, after = TargetCounters(10, {"swap": 1, "tail": 2}), TargetCounters(25, {"swap": 4, "tail": 2, "drop": 6})
    summary = summarise(Measured(rows, [], 3.0), INFO, before, after, {"server_cpu": {"share": 0.5}})
    assert summary["preemptions"] == {"swap": 3, "recompute": 0, "tail": 0, "drop": 6}
    assert summary["engine_steps"] == 15
    tokens = [summary[f"tokens_{kind}"] for kind in ("prompt", "computed", "reused", "invalidated")]
    assert tokens == [100, 110, 5, 15]
    assert summary["output_tokens"] == 9
    assert summary["ttft_final_s"]["p50"] == 0.5
    assert summary["server_cpu"]["share"] == 0.5
    json.dumps(summary)


def test_job_writes_a_folder_that_reads_back(make_trace, make_target, tmp_path):
    trace = make_trace(4)
    console = Console(width=100, force_terminal=False)

    async def run():
        config = ReplayConfig("wait", 100.0, 2, limit=3)
        return await run_job(trace, make_target(), config, tmp_path / "run", ReplayProgress(console, "wait"))

    with console.capture() as capture:
        summary = asyncio.run(run())
    assert summary == read_summary(tmp_path / "run")
    assert (summary["requests"], summary["policy"], summary["model"]) == (3, "fcfs", "fake-model")
    assert summary["trace_sha256"] == trace.sha256
    assert len(read_session_rows(tmp_path / "run")) == 3
    assert {event.kind for event in read_event_rows(tmp_path / "run")} == {"arrival", "chunk", "open", "token", "done"}
    assert "3/3 done" in capture.get()


def test_interrupt_ends_a_job_in_order(make_trace, make_target, tmp_path):
    trace = make_trace(2, gap_s=5.0)

    async def run():
        asyncio.get_running_loop().call_later(0.2, signal.raise_signal, signal.SIGINT)
        progress = ReplayProgress(Console(quiet=True), "stream")
        return await run_job(trace, make_target(), ReplayConfig(), tmp_path / "run", progress)

    summary = asyncio.run(run())
    assert summary["interrupted"]
    assert summary["failed"] == 2
    assert read_summary(tmp_path / "run")["wall_s"] < 5.0


@pytest.mark.parametrize("spec", ["http://x:1", "grpc://nowhere", "engines", ""])
def test_a_wrong_target_is_refused(spec):
    with pytest.raises(InvalidArgument, match="target"):
        make_target(spec)
