"""`s2l trace record`: a proxy before a server over a fake engine."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc.aio
import pytest

from s2l_jax.core.errors import InvalidArgument, ResourceExhausted, S2LError, Unavailable
from serving.client import AsyncClient, Client, SamplingParams
from serving.protos.jetstream.core.proto import jetstream_pb2, jetstream_pb2_grpc
from serving.protos.s2l.v1 import streaming_pb2 as pb
from serving.protos.s2l.v1 import streaming_pb2_grpc
from tests.serving.harness import Sizes, eventually, run, threaded_world, world
from workloads.record.proxy import RecordingProxy
from workloads.record.recorder import Recorder
from workloads.trace import Header, TraceError, check_trace, read_trace

GREEDY = SamplingParams(max_tokens=5)


class Ticks:
    """A clock that goes on by one second whenever it is looked at."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        self.now_s += 1.0
        return self.now_s


@contextlib.asynccontextmanager
async def recording(out, sizes=None, clock=time.monotonic):
    """Yields `(world, client through the proxy, port of the proxy, recorder)`; writes the trace at the end."""
    async with world(sizes) as one:
        with Recorder(out, Header("recorded"), lambda counts: None, clock) as recorder:
            proxy = RecordingProxy(one.target, recorder)
            port = await proxy.start("127.0.0.1:0")
            try:
                async with AsyncClient(f"grpc://127.0.0.1:{port}") as client:
                    yield one, client, port, recorder
            finally:
                await proxy.stop()


def content(event):
    return event.text if event.tokens is None else event.tokens


def test_sessions_are_passed_through_and_recorded(tmp_path):
    out = tmp_path / "t.jsonl"

    async def test():
        async with recording(out) as (one, client, _, _):
            async with client.session(GREEDY, content="The ", session_id="a") as session:
                await session.append("quick brown ")
                await asyncio.sleep(0.2)
                await session.update("slow fox", keep_chars=4)
                await session.finish()
                assert (await session.result()).text == one.expected("The slow fox", 5)
            assert (await client.generate([1, 2, 3], SamplingParams(max_tokens=2))).done.prompt_tokens == 3
            await eventually(one.is_empty)

    run(test)
    first, second = read_trace(out).sessions
    assert [(event.op, content(event), event.keep_chars, event.max_tokens) for event in first.events] == [
        ("open", "The ", 0, 5),
        ("append", "quick brown ", 0, None),
        ("update", "slow fox", 4, None),
        ("finish", None, 0, None),
    ]
    assert first.session == "a"
    times_s = [event.t_s for event in first.events]
    assert times_s == sorted(times_s) and times_s[2] - times_s[1] > 0.1
    assert [(event.op, content(event)) for event in second.events] == [("open", (1, 2, 3)), ("finish", None)]
    assert second.events[0].t_s == second.events[1].t_s and second.session


def test_events_that_bring_nothing_and_repeats(tmp_path):
    """Bare messages: an empty append, an update that only cuts, and each of them sent twice."""
    out = tmp_path / "t.jsonl"
    requests = [
        pb.SessionRequest(seq=1, open=pb.Open(params=pb.SamplingParams(max_tokens=3))),
        pb.SessionRequest(seq=2, append=pb.Append(content=pb.Content(text="hello world"))),
        pb.SessionRequest(seq=3, append=pb.Append()),
        pb.SessionRequest(seq=4, update=pb.Update(keep_chars=5)),
        pb.SessionRequest(seq=5, append=pb.Append(content=pb.Content(text="!"), final=True)),
    ]

    async def test():
        async with recording(out) as (one, _, port, _), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = streaming_pb2_grpc.StreamingContextStub(channel).Session(timeout=10)
            for request in requests:
                await call.write(request)
                await call.write(request)
            responses = [response async for response in call]
            assert "".join(response.token.text for response in responses) == one.expected("hello!", 3)

    run(test)
    (session,) = read_trace(out).sessions
    assert [(event.op, event.text, event.keep_chars) for event in session.events] == [
        ("open", None, 0),
        ("append", "hello world", 0),
        ("update", "", 5),
        ("append", "!", 0),
        ("finish", None, 0),
    ]


def test_what_did_not_finish_is_left_out_and_counted(tmp_path):
    out = tmp_path / "t.jsonl"

    async def test():
        async with recording(out) as (one, client, _, recorder):
            cancelled = client.session(GREEDY, content="x")
            async with cancelled as session:
                await session.cancel()
                assert (await session.result()).finish_reason == "cancelled"
            with pytest.raises(InvalidArgument, match="300"):
                await client.generate([1, 300], GREEDY)
            left = client.session(GREEDY, content="left open")
            async with left as session:
                await anext(session.events())
            await eventually(lambda: recorder.counts.left_out == 3)
            await client.generate("whole", GREEDY)
            under_way = client.session(GREEDY, content="under way")
            await under_way.__aenter__()
            await anext(under_way.events())
            assert (recorder.counts.finished, recorder.counts.open) == (1, 1)
        assert (recorder.counts.finished, recorder.counts.open, recorder.counts.left_out) == (1, 0, 4)
        with pytest.raises(S2LError):
            await under_way.result()
        await under_way.__aexit__(None, None, None)
        await eventually(one.is_empty)

    run(test)
    (session,) = read_trace(out).sessions
    assert session.events[0].text == "whole"


def test_overlapping_sessions_are_written_in_order_of_time(tmp_path):
    out = tmp_path / "t.jsonl"

    async def test():
        async with recording(out, clock=Ticks()) as (_, client, _, recorder):
            async with client.session(GREEDY, content="long", session_id="same") as long:
                for number in range(3):
                    await client.generate(f"short {number}", GREEDY)
                assert recorder.counts.finished == 3
                assert "short" not in (tmp_path / "t.jsonl.partial").read_text()  # the long one may come before them
                await long.append(" enough", final=True)
                await long.result()
            async with client.session(GREEDY, content="again", session_id="same", final=True) as again:
                await again.result()

    run(test)
    assert check_trace(out).problems == ()
    trace = read_trace(out)
    assert [session.events[0].text for session in trace.sessions] == ["long", "short 0", "short 1", "short 2", "again"]
    assert (trace.sessions[0].session, trace.sessions[-1].session) == ("same", "same (2)")


def test_other_services_and_statuses_pass_through(tmp_path):
    async def test():
        sizes = Sizes(max_sessions=1, retry_after_s=0.25)
        async with recording(tmp_path / "t.jsonl", sizes) as (one, client, port, _):
            assert (await client.model()).name == "fake"
            assert (await client.stats()).total_blocks == 512
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = jetstream_pb2_grpc.OrchestratorStub(channel)
                assert (await stub.HealthCheck(jetstream_pb2.HealthCheckRequest())).is_live
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.unary_unary("/no.such/Method")(b"")
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            async with client.session(GREEDY, content="x", timeout_s=0.3) as session:
                with pytest.raises(S2LError) as late:
                    await session.result()
                assert late.value.status == "DEADLINE_EXCEEDED"
            await eventually(one.is_empty)
            async with client.session():
                await eventually(lambda: one.orchestrator.stats().sessions_open == 1)
                with pytest.raises(ResourceExhausted) as full:
                    await client.generate("x", GREEDY)
                assert full.value.retry_after_s == pytest.approx(0.25)
            await eventually(one.is_empty)
            await client.generate("x", GREEDY)

    run(test)


def test_mistakes_say_what_to_do(tmp_path):
    async def test():
        with Recorder(tmp_path / "t.jsonl", Header("r"), lambda counts: None) as recorder:
            with pytest.raises(InvalidArgument, match="HOST:PORT"):
                RecordingProxy("somewhere", recorder)
            async with world() as one:
                with pytest.raises(InvalidArgument, match="choose another --listen"):
                    await RecordingProxy(one.target, recorder).start(f"127.0.0.1:{one.port}")

    with pytest.raises(TraceError, match="no session was finished"):
        run(test)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr("workloads.record.proxy._CONNECT_TIMEOUT_S", 0.2)

    async def test():
        with Recorder(tmp_path / "t.jsonl", Header("r"), lambda counts: None) as recorder:
            await RecordingProxy("127.0.0.1:1", recorder).start("127.0.0.1:0")

    with pytest.raises(Unavailable, match=r"nobody answers at 127\.0\.0\.1:1"):
        run(test)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_a_recording(tmp_path: Path):
    out = tmp_path / "t.jsonl"
    program = "from serving.cli import main; main()"
    with threaded_world() as one:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                program,
                "trace",
                "record",
                "--to",
                one.target,
                "--listen",
                "127.0.0.1:0",
                "--out",
                out,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        try:
            said = process.stdout.readline()
            address = said.split()[1].rstrip(",")
            with Client(address, timeout_s=20) as client:
                assert client.generate("hello", GREEDY).text == one.expected("hello", 5)
                with client.session(GREEDY, content="open") as session:
                    next(session.events())
                    process.send_signal(signal.SIGINT)
                    rest, errors = process.communicate(timeout=20)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == 0, errors
    assert rest.strip() == f"{out}: 1 sessions; left out because they had not finished: 1"
    assert json.loads(out.read_text().splitlines()[0])["source"] == f"live traffic to {one.target}"
    assert [event.op for event in read_trace(out).events] == ["open", "finish"]
