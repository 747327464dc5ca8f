"""Many threads at once, and nothing left behind."""

import gc
import random
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

from s2l_jax.core.errors import S2LError
from s2l_jax.core.params import SamplingParams
from s2l_jax.orchestrator.config import OrchestratorConfig
from s2l_jax.orchestrator.open_session import OpenSession
from tests.orchestrator.harness import TIMEOUT_S, Recorder, World, world


def run_stream(w: World, number: int, all_streamed: threading.Barrier) -> None:
    """Streams a context in pieces, with updates and repeats, waits for all others, and checks the answer."""
    rng = random.Random(number)
    name, text, seq, sink = f"s{number}", "", 1, Recorder()
    w.orchestrator.open(sink=sink, session_id=name)
    for _ in range(8):
        keep = rng.randrange(len(text) + 1) if rng.random() < 0.3 else len(text)
        piece = "".join(rng.choices("abcé", k=rng.randrange(12)))
        text, seq = text[:keep] + piece, seq + 1
        for _ in range(rng.choice((1, 1, 2))):
            w.orchestrator.update(name, piece, keep_chars=keep, seq=seq)
    all_streamed.wait(TIMEOUT_S)
    w.orchestrator.append(name, "!", final=True, seq=seq + 1)
    assert sink.ids == w.engine.reference_output(list((text + "!").encode()), 8)


def test_two_hundred_threads() -> None:
    config = OrchestratorConfig(default_max_tokens=8, max_sessions=256)
    with world(config=config, max_sessions=256, num_blocks=64) as w:
        barrier = threading.Barrier(200)
        with ThreadPoolExecutor(200) as pool:
            for future in [pool.submit(run_stream, w, number, barrier) for number in range(200)]:
                future.result()
        w.check_empty()
        assert w.orchestrator.stats().counters.sessions_completed == 200
        assert w.orchestrator.stats().counters.preemptions > 0, "memory was never short"


def test_threads_on_one_session_are_put_in_order() -> None:
    with world() as w:
        sink = Recorder()
        w.orchestrator.open(sink=sink, session_id="s", content="<")
        with ThreadPoolExecutor(16) as pool:
            acks = list(pool.map(lambda _: w.orchestrator.append("s", "x"), range(64)))
        assert sorted(ack.seq for ack in acks) == list(range(2, 66))
        assert sorted(ack.context_tokens for ack in acks) == list(range(2, 66))
        w.orchestrator.finish("s")
        assert sink.ids == w.engine.reference_output(list(b"<" + b"x" * 64), 8)


def cancel_somewhere(w: World, number: int) -> Recorder:
    """Opens a session and cancels it at a random point of its life; it may end before."""
    rng = random.Random(number)
    sink, name = Recorder(), f"c{number}"
    wait_for_token = threading.Event()

    def watch(event: object) -> None:
        sink(event)  # type: ignore[arg-type]
        wait_for_token.set()

    w.orchestrator.open(
        sink=watch, session_id=name, content="x" * rng.randrange(60), params=SamplingParams(max_tokens=30)
    )
    try:
        for _ in range(rng.randrange(4)):
            w.orchestrator.append(name, "y" * rng.randrange(20))
        if rng.random() < 0.6:
            w.orchestrator.append(name, "z", final=True)
            if rng.random() < 0.7:
                wait_for_token.wait(0.01)
    except S2LError as error:
        raise AssertionError(f"{name}: {error}") from error
    w.orchestrator.cancel(name)
    return sink


def open_sessions() -> list[OpenSession]:
    """All that are in memory."""
    gc.collect()
    return [thing for thing in gc.get_objects() if isinstance(thing, OpenSession)]


def test_a_thousand_cancelled_sessions_leave_nothing() -> None:
    before, of_other_tests = set(threading.enumerate()), open_sessions()
    with world(num_blocks=64, max_sessions=32, config=OrchestratorConfig(max_sessions=32, default_max_tokens=8)) as w:
        with ThreadPoolExecutor(8) as pool:
            sinks = list(pool.map(lambda number: cancel_somewhere(w, number), range(1000)))
        reasons = {sink.done.finish_reason for sink in sinks}
        assert "cancelled" in reasons
        refs = [weakref.ref(sink) for sink in sinks]
        del sinks
        w.check_empty()
        assert w.ask("one more").done
        gc.collect()
        assert sum(ref() is not None for ref in refs) == 0
        assert all(any(session is other for other in of_other_tests) for session in open_sessions())
        assert w.orchestrator.stats().counters.sessions_opened == 1001
    assert set(threading.enumerate()) <= before  # those of other tests may have ended
