"""Engines behind a network: the same answers, whatever becomes of the other side."""

import random
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import Mock

import grpc
import numpy as np
import pytest

from s2l_jax.core.costs import PhysicalCosts
from s2l_jax.core.errors import InvalidArgument, S2LError, Unavailable
from s2l_jax.core.ids import BlockId, HostSlot, SessionId, SlotId
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import Chunk, HostCopy, PageCopy, Sample, SampledToken, StepPlan, StepResult, StepTiming
from s2l_jax.engine.errors import EngineGone, KVLost
from s2l_jax.orchestrator import watchdog as watchdog_module
from serving.client import ClientTls
from serving.config import ServeConfig
from serving.protos.s2l.v1 import engine_pb2 as pb
from serving.remote import host as host_module
from serving.remote import peers as peers_module
from serving.remote.codec import done_message, plan_of, result_of, step_message
from serving.remote.engine import RemoteEngine
from serving.remote.host import EngineHost
from serving.remote.page_parts import PART_BYTES, join, parts_of
from serving.remote.peers import Peers
from serving.remote.server import EngineServer
from tests.orchestrator.harness import TIMEOUT_S, Gate, Recorder, wait_until
from tests.orchestrator.test_separate import LONG, stream
from tests.serving.certificates import certificates
from tests.serving.remote_harness import PAGE_SHAPE, description, limits, make_engine, remote_world, serve


def test_steps_and_results_arrive_as_they_were() -> None:
    params = SamplingParams(temperature=0.7, top_k=3, top_p=0.9, min_p=0.1, repetition_penalty=1.2, logprobs=2)
    plan = StepPlan(
        7,
        (Chunk(SessionId("a"), SlotId(2), 4, np.array([5, -1], np.int32), np.array([9, 8], np.int32)),),
        (
            Sample(SessionId("a"), SlotId(2), params, 2**63 - 1, 6, np.array([1, 2], np.int32), 3),
            Sample(SessionId("b"), SlotId(1), params, 0, 6, None, 3, np.array([1, -2], np.int32)),
        ),
        (HostCopy(BlockId(1), HostSlot(2), 3), HostCopy(BlockId(4), HostSlot(5), 6)),
        (HostCopy(BlockId(7), HostSlot(8), 9),),
        (PageCopy(BlockId(1), BlockId(2)),),
    )
    found = plan_of(pb.Step.FromString(step_message(plan, 3).SerializeToString()))
    assert str(found) == str(plan)
    result = StepResult(plan, (SampledToken(5, -0.5, ((5, -0.5), (1, -2.0))), SampledToken(-1)), StepTiming(1, 2, 3))
    assert result_of(pb.StepDone.FromString(done_message(result).SerializeToString()), plan) == result


def test_damaged_pages_are_refused() -> None:
    pages = np.random.default_rng(0).normal(size=(40, 2, 2, 4, 1024)).astype(np.float32)
    parts = list(parts_of(pages, 1, 2))
    assert len(parts) > 2
    assert all(len(part.content) <= PART_BYTES for part in parts)
    head, found = join(parts)
    assert (head.owner, head.key) == (1, 2)
    np.testing.assert_array_equal(found, pages)
    flipped = pb.PagePart(content=b"\0" + parts[1].content[1:], crc32=parts[1].crc32)
    for bad in (
        [],
        parts[:-1],
        [*parts, parts[1]],
        [parts[0], flipped, *parts[2:]],
        [pb.PagePart(shape=[1, 2], dtype="float32")],
        [pb.PagePart(shape=[1, 1, 1, 1, 1], dtype="object")],
        [pb.PagePart(shape=[1 << 20, 1 << 20, 4, 4, 4], dtype="float32")],
    ):
        with pytest.raises(InvalidArgument):
            join(bad)


@pytest.mark.parametrize(
    ("local", "remote"), [("prefill", ["generate"]), ("generate", ["prefill"]), ("prefill", ["prefill", "generate"])]
)
def test_streams_answer_the_same_over_a_network(local: str, remote: list[str]) -> None:
    def run(number: int) -> None:
        sink = Recorder()
        text = stream(w, number, sink)
        assert sink.ids == w.expected(text)

    with remote_world(local, remote) as (w, _):
        with ThreadPoolExecutor(8) as pool:
            for future in [pool.submit(run, number) for number in range(24)]:
                future.result()
        w.check_empty()
        counters = w.orchestrator.stats().counters
        assert (counters.handoffs, counters.sessions_resumed) == (24, 0)
        assert all(engine.steps for engine in w.engines)


def test_sessions_of_a_lost_engine_go_on_and_it_may_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "REJOIN_S", 0.1)
    with remote_world("prefill", ["generate"]) as (w, servers):
        sinks = [w.ask(f"<{i}>", params=LONG) for i in range(4)]
        wait_until(lambda: any(len(sink.events) > 2 for sink in sinks))
        port = servers[0].port
        servers.pop().stop()
        assert [sink.ids for sink in sinks] == [w.expected(f"<{i}>", 30) for i in range(4)]
        assert w.ask("alone").ids == w.expected("alone")
        wait_until(lambda: w.orchestrator.stats().engines[1].failure is not None or ask_once(w))
        engine = make_engine()
        servers.append(serve("generate", engine, port))
        wait_until(lambda: w.orchestrator.stats().engines[1].failure is None)
        assert w.ask("together", params=LONG).ids == w.expected("together", 30)
        assert engine.steps > 20


def ask_once(w) -> bool:  # type: ignore[no-untyped-def]
    w.ask(f"{random.random()}")
    return False


def test_a_failed_step_over_there_fails_its_sessions_only() -> None:
    with remote_world("prefill", ["generate"]) as (w, _):
        assert w.ask("before").ids == w.expected("before")
        w.engines[1].loses_kv = True
        assert w.ask("lost", params=LONG).ids == w.expected("lost", 30)
        assert w.orchestrator.stats().counters.step_failures > 0
        assert w.ask("after").ids == w.expected("after")
        assert w.orchestrator.stats().engines[1].failure is None
        w.check_empty()


def test_an_engine_that_hangs_is_given_up_and_taken_in_when_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "REJOIN_S", 0.1)
    monkeypatch.setattr(watchdog_module, "LOOK_S", 0.02)
    gate = Gate()
    with remote_world("prefill", ["generate"], step_timeout_s=0.4) as (w, _):
        assert w.ask("before").ids == w.expected("before")
        w.engines[1].hook = gate
        assert w.ask("hangs", params=LONG).ids == w.expected("hangs", 30)
        assert gate.entered.is_set()
        failure = w.orchestrator.stats().engines[1].failure
        assert failure is not None and "has ended no step for 0.4 s" in failure
        gate.opened.set()
        wait_until(lambda: w.orchestrator.stats().engines[1].failure is None)
        before = w.engines[1].steps
        assert w.ask("after", params=LONG).ids == w.expected("after", 30)
        assert w.engines[1].steps > before + 20
        wait_until(lambda: w.orchestrator.stats().scheduler.held_blocks == 0)


def test_an_engine_that_hangs_for_good_ends_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "LEAVE_S", 0.2)
    gate, engine = Gate(), make_engine()
    engine.hook = gate
    host = EngineHost(engine, engine, PAGE_SHAPE, "float32")  # type: ignore[arg-type]
    server = EngineServer(host, description("generate"), "127.0.0.1:0")
    remote = RemoteEngine(f"127.0.0.1:{server.port}")
    remote.warmup()
    remote.submit(StepPlan(1, (), (), copies=(PageCopy(BlockId(0), BlockId(1)),)))
    assert gate.entered.wait(TIMEOUT_S)
    remote.close()
    assert host.ended.wait(TIMEOUT_S)
    assert host.failure is not None and "hangs" in host.failure
    other = RemoteEngine(f"127.0.0.1:{server.port}")
    with pytest.raises(EngineGone, match="hangs"):
        other.warmup()
    other.close()
    gate.opened.set()
    server.stop()


def test_a_process_whose_engine_hangs_ends_with_an_error() -> None:
    program = (
        "import threading, types; from serving.remote.server import serve_until_signal; ended = threading.Event(); "
        "host = types.SimpleNamespace(ended=ended, failure='the engine hangs'); ended.set(); "
        "serve_until_signal(host, types.SimpleNamespace(port=1), print)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "Error: the engine hangs: this process ends, start it again\n")


def test_an_engine_that_is_shut_down_says_that_somebody_wanted_it() -> None:
    server = serve("generate", make_engine())
    remote = RemoteEngine(f"127.0.0.1:{server.port}")
    remote.warmup()
    server.stop()
    with pytest.raises(EngineGone, match="has shut down") as caught:
        remote.collect()
    assert caught.value.was_asked
    remote.close()


def test_an_engine_whose_thread_ends_says_so() -> None:
    engine = make_engine()
    host = EngineHost(engine, engine, PAGE_SHAPE, "float32")  # type: ignore[arg-type]
    server = EngineServer(host, description("generate"), "127.0.0.1:0")
    remote = RemoteEngine(f"127.0.0.1:{server.port}")
    remote.warmup()
    engine.dies = True
    with pytest.raises(EngineGone, match="the engine's thread has ended: Killed") as caught:
        remote.execute(StepPlan(1, (), (), copies=(PageCopy(BlockId(0), BlockId(1)),)))
    assert not caught.value.was_asked
    assert remote.gone.wait(TIMEOUT_S)
    assert host.ended.wait(TIMEOUT_S) and "Killed" in str(host.failure)
    remote.close()
    server.stop()


def test_the_death_of_an_engine_with_nothing_to_do_is_noticed() -> None:
    with remote_world("prefill", ["generate"]) as (w, servers):
        servers.pop().stop()
        wait_until(lambda: w.orchestrator.stats().engines[1].failure is not None)
        assert w.ask("alone", params=LONG).ids == w.expected("alone", 30)
        counters = w.orchestrator.stats().counters
        assert (counters.sessions_resumed, counters.handoffs) == (0, 0)  # nobody tried the dead one


def test_an_engine_that_takes_no_pages_keeps_nobody_else_waiting() -> None:
    opened = threading.Event()
    with remote_world("prefill", ["generate", "generate"]) as (w, servers):
        host = servers[0]._host
        put_pages = host.put_pages

        def put_late(*pages: Any) -> None:
            assert opened.wait(TIMEOUT_S)
            put_pages(*pages)

        host.put_pages = put_late  # type: ignore[method-assign]
        texts = [chr(ord("a") + i) * 60 for i in range(12)]
        sinks = [w.ask(text) for text in texts]
        wait_until(lambda: sum(sink.ended.is_set() for sink in sinks) >= 6)
        opened.set()
        assert [sink.ids for sink in sinks] == [w.expected(text) for text in texts]
        w.check_empty()


def test_a_server_begins_without_an_engine_that_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.remote.engine.CONNECT_S", 0.3)
    monkeypatch.setattr(peers_module, "REJOIN_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with remote_world("prefill", [], late=[f"127.0.0.1:{port}"]) as (w, servers):
        failure = w.orchestrator.stats().engines[1].failure
        assert failure is not None and f"no engine has answered at 127.0.0.1:{port} yet" in failure
        assert w.ask("alone", params=LONG).ids == w.expected("alone", 30)
        engine = make_engine()
        servers.append(serve("generate", engine, port))
        wait_until(lambda: w.orchestrator.stats().engines[1].failure is None)
        assert w.ask("together", params=LONG).ids == w.expected("together", 30)
        assert engine.steps > 20


def test_pages_that_nobody_takes_are_forgotten() -> None:
    engine = make_engine()
    host = EngineHost(engine, engine, PAGE_SHAPE, "float32")  # type: ignore[arg-type]
    server = EngineServer(host, description("generate"), "127.0.0.1:0")
    remote = RemoteEngine(f"127.0.0.1:{server.port}")
    remote.warmup()
    owner = host._owner
    assert owner is not None
    gathered = [remote.gather([block]) for block in range(3)]
    brought = [remote.place((np.zeros((1, *PAGE_SHAPE), np.float32),)) for _ in range(3)]
    wait_until(lambda: (len(owner.gathered), len(owner.brought)) == (3, 3))
    pages = gathered.pop().fetch()
    assert pages.shape == (1, *PAGE_SHAPE)
    remote.scatter([7], brought.pop())
    gathered.clear()
    brought.clear()
    wait_until(lambda: not owner.gathered and not owner.brought)
    assert not remote.gone.is_set()
    remote.close()
    server.stop()


def test_pages_that_cannot_be_put_in_are_lost_kv() -> None:
    """Their session would go on with what was in its blocks before."""
    engine = make_engine()
    server = serve("generate", engine)
    remote = RemoteEngine(f"127.0.0.1:{server.port}")
    remote.warmup()
    step = StepPlan(1, (), (), copies=(PageCopy(BlockId(0), BlockId(1)),))
    for number, break_it in enumerate(("place", "scatter")):
        setattr(engine, break_it, Mock(side_effect=MemoryError("no room")))
        assert remote.execute(step).plan is step
        remote.scatter([number], remote.place((np.zeros((1, *PAGE_SHAPE), np.float32),)))
        remote.submit(step)
        with pytest.raises(KVLost, match="no room"):
            remote.collect()
        delattr(engine, break_it)
    remote.close()
    server.stop()


def test_pages_gathered_before_a_failure_was_known_are_not_given_out() -> None:
    """What was in them is lost, and what is in them now is not what its session, or its content's name, says."""
    engine = make_engine()
    server = serve("prefill", engine)
    remote = RemoteEngine(f"127.0.0.1:{server.port}")
    remote.warmup()
    step = StepPlan(1, (), (), copies=(PageCopy(BlockId(0), BlockId(1)),))
    engine.loses_kv = True
    remote.submit(step)
    pages = remote.gather([0])
    with pytest.raises(S2LError, match="failed before these pages were gathered"):
        pages.fetch()
    with pytest.raises(KVLost):
        remote.collect()
    assert remote.gather([0]).fetch().shape == (1, *PAGE_SHAPE)
    remote.close()
    server.stop()


@pytest.mark.parametrize(
    ("local", "remote"), [("prefill", ["generate"]), ("generate", ["prefill"]), ("prefill", ["prefill", "generate"])]
)
def test_blocks_leave_ahead_over_a_network(local: str, remote: list[str]) -> None:
    text = "abcdefghij" * 11
    with remote_world(local, remote) as (w, _):
        sinks = [Recorder() for _ in range(2)]
        for number, sink in enumerate(sinks):
            w.orchestrator.open(sink=sink, session_id=f"{number}", content=f"{number}{text}")
        wait_until(lambda: sum(engine.scheduler.cached_blocks for engine in w.orchestrator.stats().engines) >= 48)
        for number, sink in enumerate(sinks):
            w.orchestrator.append(f"{number}", "!", final=True)
            assert sink.ids == w.expected(f"{number}{text}!")
        w.check_empty()
        counters = w.orchestrator.stats().counters
        assert (counters.ahead_blocks, counters.handoff_blocks) == (48, 8)


def test_one_orchestrator_at_a_time_has_an_engine() -> None:
    engine = make_engine()
    server = serve("generate", engine)
    address = f"127.0.0.1:{server.port}"
    first, second = RemoteEngine(address), RemoteEngine(address)
    first.warmup()
    with pytest.raises(EngineGone, match="another orchestrator has this engine"):
        second.warmup()
    with pytest.raises(S2LError, match="has not, or no longer, this engine"):
        second.place((np.zeros((1, *PAGE_SHAPE), np.float32),))
    with pytest.raises(S2LError, match=r"pages of \[2, 1, 4, 2\]"):
        first.place((np.zeros((1, 2, *PAGE_SHAPE[1:]), np.float32),))
    first.close()
    second.close()

    def is_free() -> bool:
        third = RemoteEngine(address)
        try:
            third.warmup()
            return third.execute(StepPlan(1, (), (), copies=(PageCopy(BlockId(0), BlockId(1)),))).tokens == ()
        except EngineGone:
            return False
        finally:
            third.close()

    wait_until(is_free)
    server.stop()


def test_engines_that_do_not_fit_are_refused() -> None:
    server = serve("generate", make_engine())
    address = f"127.0.0.1:{server.port}"
    peers = Peers((address,), description("prefill", kv="other"), limits(), PhysicalCosts())
    with pytest.raises(InvalidArgument, match="has kv 'fake', but here it is 'other'"):
        peers.units(1)
    server.stop()
    with grpc.insecure_channel(address):
        pass


@pytest.mark.parametrize("mutual", [False, True])
def test_certificates(mutual: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    files, engine = certificates(), make_engine()
    host = EngineHost(engine, engine, PAGE_SHAPE, "float32")  # type: ignore[arg-type]
    server = EngineServer(host, description("generate"), "127.0.0.1:0", files.server(mutual=mutual))
    address = f"127.0.0.1:{server.port}"
    peers = Peers((address,), description("prefill"), limits(), PhysicalCosts(), files.client(mutual=mutual))
    (unit,) = peers.units(1)
    unit.engine.warmup()
    plan = StepPlan(1, (), (), copies=(PageCopy(BlockId(0), BlockId(1)),))
    assert unit.engine.execute(plan).plan is plan
    unit.engine.close()
    monkeypatch.setattr("serving.remote.engine.CONNECT_S", 0.4)
    for tls in [None, ClientTls(files.strange), *([files.client()] if mutual else [])]:
        stranger = RemoteEngine(address, tls)
        with pytest.raises(Unavailable, match="no engine answers"):
            stranger.describe()
        stranger.close()
    server.stop()


def test_nobody_there_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.remote.engine.CONNECT_S", 0.2)
    with pytest.raises(Unavailable, match="no engine answers at"):
        RemoteEngine("127.0.0.1:1").describe()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"role": "prefil"}, "--role is 'prefil'"),
        ({"peers": "a:1"}, "--peers needs --role"),
        ({"step_timeout_s": 0}, "--step-timeout-s is 0"),
        ({"role": "prefill", "peers": "a:1,b"}, "--peers has 'b'"),
        ({"role": "prefill", "prefill_slices": "cpu=1", "generate_slices": "cpu=1"}, "--role is for one engine"),
        ({"role": "prefill", "slices": "cpu=1,cpu=1"}, "give one slice"),
    ],
)
def test_options_that_do_not_go_together_are_named(options: dict[str, str], says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        ServeConfig(**options)  # type: ignore[arg-type]
