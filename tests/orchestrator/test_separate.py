"""Several engines behind one orchestrator: sessions move, engines fail, and answers stay what they are."""

import contextlib
import itertools
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from s2l_jax.core.errors import AlreadyExists, InternalError, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.scheduler import Scheduler
from s2l_jax.orchestrator.events import FailedEvent, SinkEvent
from s2l_jax.orchestrator.member import EngineUnit
from s2l_jax.orchestrator.recovery import MOST_FAILURES
from tests.orchestrator.harness import TIMEOUT_S, Gate, Recorder, wait_until
from tests.orchestrator.separate_harness import BrokenTransport, SeparateWorld, separate_world

LONG = SamplingParams(max_tokens=30, ignore_eos=True)


def stream(w: SeparateWorld, number: int, sink: Recorder) -> str:
    """Streams a context in pieces, with updates and repeats; returns what it is in the end."""
    rng = random.Random(number)
    name, text, seq = f"s{number}", "", 1
    w.orchestrator.open(sink=sink, session_id=name)
    for _ in range(6):
        keep = rng.randrange(len(text) + 1) if rng.random() < 0.3 else len(text)
        piece = "".join(rng.choices("abcé", k=rng.randrange(12)))
        text, seq = text[:keep] + piece, seq + 1
        for _ in range(rng.choice((1, 1, 2))):
            w.orchestrator.update(name, piece, keep_chars=keep, seq=seq)
    w.orchestrator.append(name, "!", final=True, seq=seq + 1)
    return text + "!"


@pytest.mark.parametrize("roles", ["pg", "ppgg", "pb", "bb", "pgg"])
def test_streams_answer_the_same_whatever_engines_there_are(roles: str) -> None:
    def run(number: int) -> None:
        sink = Recorder()
        text = stream(w, number, sink)
        assert sink.ids == w.expected(text)

    with separate_world(roles, num_blocks=40, generate_blocks=33, max_sessions=64) as w:
        with ThreadPoolExecutor(24) as pool:
            for future in [pool.submit(run, number) for number in range(72)]:
                future.result()
        w.check_empty()
        stats = w.orchestrator.stats()
        assert stats.counters.sessions_completed == 72
        fewest, most = {"bb": (0, 0), "pb": (1, 71)}.get(roles, (72, 72))
        assert fewest <= stats.counters.handoffs <= most
        assert stats.counters.sessions_resumed == 0
        assert all(engine.steps for engine in w.engines)
        assert stats.scheduler.steps == sum(engine.scheduler.steps for engine in stats.engines)


def test_roles_are_kept() -> None:
    with separate_world("pg") as w:
        sinks = [w.ask(f"{i}" * 30) for i in range(8)]
        assert [sink.ids for sink in sinks] == [w.expected(f"{i}" * 30) for i in range(8)]
        prefill, generate = w.engines
        assert all(len(chunk.tokens) == 1 for plan in generate.plans for chunk in plan.chunks)
        assert sum(len(plan.samples) for plan in prefill.plans) == 8
        assert w.orchestrator.stats().counters.handoff_blocks == 8 * 8
        w.check_empty()


def test_the_first_token_does_not_wait_for_the_pages() -> None:
    transport = BrokenTransport()
    with separate_world("pg", transport=transport) as w:
        sink = w.ask("hello")
        wait_until(lambda: len(sink.events) > 0 and transport.entered.is_set())
        other = w.ask("x", params=SamplingParams(max_tokens=1))
        assert other.ids == w.expected("x", 1)
        assert not sink.ended.is_set()
        transport.opened.set()
        assert sink.ids == w.expected("hello")
        w.check_empty()


def test_pages_leave_before_the_next_prompt_is_computed() -> None:
    """Pages gathered behind the next step would have to wait for it, which may take seconds."""
    with separate_world("pg", token_budget=16) as w:
        order: list[str] = []
        prefill = w.engines[0]
        gather = prefill.gather

        def note(blocks: list[int]) -> object:
            order.append("gather")
            return gather(blocks)

        prefill.gather = note  # type: ignore[method-assign,assignment]
        prefill.hook = lambda plan: order.append("sampling" if plan.samples else "step")
        sinks = [w.ask(f"{i}" * 64) for i in range(6)]
        assert all(sink.done for sink in sinks)
        followers = [after for before, after in itertools.pairwise(order) if before == "sampling"]
        assert followers == ["gather"] * len(followers)


def test_a_session_that_ends_on_its_way_leaves_nothing() -> None:
    transport = BrokenTransport()
    with separate_world("pg", transport=transport) as w:
        sinks = [w.ask(f"{i}" * 50, session_id=f"{i}") for i in range(4)]
        assert transport.entered.wait(TIMEOUT_S)
        wait_until(lambda: all(sink.events for sink in sinks))
        for i in range(4):
            w.orchestrator.cancel(f"{i}")
        assert {sink.done.finish_reason for sink in sinks} == {"cancelled"}
        w.check_empty()
        transport.opened.set()
        assert w.ask("again").ids == w.expected("again")
        w.check_empty()


def test_pages_that_get_lost_are_computed_again() -> None:
    transport = BrokenTransport(lost_runs=3)
    transport.opened.set()
    with separate_world("pg", transport=transport) as w:
        sinks = [w.ask(f"{i}" * 50) for i in range(5)]
        assert [sink.ids for sink in sinks] == [w.expected(f"{i}" * 50) for i in range(5)]
        counters = w.orchestrator.stats().counters
        assert counters.handoff_failures == counters.sessions_resumed == 5 - counters.handoffs
        assert 1 <= counters.handoff_failures <= 3
        w.check_empty()


def test_sessions_wait_for_room_in_order() -> None:
    """Two sessions fill the generate engine; the others wait with their first token, and none is lost."""
    with separate_world("pg", generate_blocks=32, max_model_len=128) as w:
        texts = [f"{i}" * 60 for i in range(6)]
        sinks = [w.ask(text, params=LONG) for text in texts]
        assert [sink.ids for sink in sinks] == [w.expected(text, 30) for text in texts]
        w.check_empty()


def test_a_prompt_goes_where_its_beginning_is() -> None:
    with separate_world("ppg") as w:
        for text in ("a" * 40, "b" * 40):
            assert w.ask(text, params=SamplingParams(max_tokens=1)).done
        for text in ("a" * 40, "a" * 40 + "xyz", "b" * 40 + "z", "a" * 38, "b" * 40):
            assert w.ask(text).done.stats.reused_tokens >= 36
        w.check_empty()


def test_prompts_are_spread_by_the_work_before_them() -> None:
    gate = Gate()
    with separate_world("ppg", hook=gate) as w:
        sinks = [w.ask(f"{i}" * (20 + i)) for i in range(6)]
        stats = w.orchestrator.stats()
        assert [sum(engine.scheduler.sessions.values()) for engine in stats.engines] == [3, 3, 0]
        gate.opened.set()
        assert all(sink.done for sink in sinks)


def test_one_name_is_one_session_whatever_the_engine() -> None:
    with separate_world("pp" + "g") as w:
        w.orchestrator.open(sink=Recorder(), session_id="s", content="x" * 40)
        with pytest.raises(AlreadyExists):
            w.orchestrator.open(sink=Recorder(), session_id="s")


def test_a_full_house_says_so() -> None:
    with separate_world("ppg", max_sessions=2) as w:
        for _ in range(4):
            w.orchestrator.open(sink=Recorder(), content="x")
        with pytest.raises(ResourceExhausted, match="all 4 sessions"):
            w.orchestrator.open(sink=Recorder())


def test_what_makes_no_deployment_is_named() -> None:
    with pytest.raises(InvalidArgument, match="no engine computes contexts"), separate_world("g"):
        pass
    with pytest.raises(InvalidArgument, match="no engine generates"), separate_world("p"):
        pass
    with separate_world("pg") as w:
        prefill, generate = w.units
        with pytest.raises(InvalidArgument, match="has a scheduler of role both"):
            EngineUnit(prefill.engine, Scheduler(generate.scheduler.config), "prefill", prefill.pages)
        with pytest.raises(InvalidArgument, match="needs access to its pages"):
            EngineUnit(generate.engine, Scheduler(generate.scheduler.config), "generate")


# Engines that fail


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_a_dead_engine_s_sessions_go_on_in_another(index: int) -> None:
    """One of each role dies in the middle of everything: streams, decodes, sessions between the two."""
    with separate_world("ppgg") as w:
        streams = [Recorder() for _ in range(6)]
        for number, sink in enumerate(streams):
            w.orchestrator.open(sink=sink, session_id=f"s{number}", content=f"{number}" * 20)
            w.orchestrator.append(f"s{number}", "-more", seq=2)
        decoding = [w.ask(f"<{i}>", params=LONG, session_id=f"d{i}") for i in range(6)]
        wait_until(lambda: any(sink.events for sink in decoding))
        w.engines[index].dies = True
        wait_until(lambda: w.orchestrator.stats().engines[index].failure is not None or nudge(w))
        for number in range(6):
            assert w.orchestrator.append(f"s{number}", "-more", seq=2).duplicate
            w.orchestrator.append(f"s{number}", "!", seq=3, final=True)
        assert [sink.ids for sink in decoding] == [w.expected(f"<{i}>", 30) for i in range(6)]
        assert [sink.ids for sink in streams] == [w.expected(f"{i}" * 20 + "-more!") for i in range(6)]
        assert w.ask("later").ids == w.expected("later")
        assert w.orchestrator.unready() is None
        assert w.orchestrator.stats().counters.sessions_resumed > 0
        w.check_empty()


def nudge(w: SeparateWorld) -> bool:
    """Gives every engine something to do, so that one that is to die does."""
    w.ask(f"{random.random()}")
    return False


def test_prefill_engines_generate_if_nobody_else_does() -> None:
    with separate_world("pg") as w:
        first = w.ask("first", params=LONG)
        w.engines[1].dies = True
        assert first.ids == w.expected("first", 30)
        wait_until(lambda: w.orchestrator.stats().engines[1].failure is not None)
        assert w.ask("second", params=LONG).ids == w.expected("second", 30)
        w.check_empty()


def test_generate_engines_compute_contexts_if_nobody_else_does() -> None:
    with separate_world("pg") as w:
        w.engines[0].dies = True
        sink = Recorder()
        w.orchestrator.open(sink=sink, session_id="s", content="abc")
        wait_until(lambda: w.orchestrator.stats().engines[0].failure is not None)
        w.orchestrator.append("s", "def", final=True)
        assert sink.ids == w.expected("abcdef")
        assert w.ask("second").ids == w.expected("second")
        w.check_empty()


def test_without_any_engine_sessions_are_unavailable() -> None:
    with separate_world("pg") as w:
        sinks = [w.ask(f"{i}", params=LONG) for i in range(3)]
        for engine in w.engines:
            engine.dies = True
        for sink in sinks:
            assert isinstance(sink.last, FailedEvent) or sink.done
        wait_until(lambda: all(engine.failure for engine in w.orchestrator.stats().engines) or nudge_if_open(w))
        with pytest.raises(Unavailable, match="restarted"):
            w.orchestrator.open(sink=Recorder())
        assert w.orchestrator.unready() is not None
        assert w.orchestrator.stats().sessions_open == 0


def nudge_if_open(w: SeparateWorld) -> bool:
    return w.orchestrator.unready() is None and nudge(w)


def test_without_room_elsewhere_sessions_are_unavailable_with_a_hint() -> None:
    with separate_world("bb", max_sessions=3) as w:
        sinks = [Recorder() for _ in range(5)]
        for number, sink in enumerate(sinks):
            w.orchestrator.open(sink=sink, session_id=f"{number}", content="x" * (5 + number))
        w.engines[0].dies = True
        wait_until(lambda: any(sink.ended.is_set() for sink in sinks) or touch(w))
        errors = [sink.error for sink in sinks if sink.ended.is_set()]
        assert errors
        assert all(isinstance(error, Unavailable) and error.retry_after_s > 0 for error in errors)
        for number, sink in enumerate(sinks):
            if not sink.ended.is_set():
                w.orchestrator.finish(f"{number}")
                assert sink.ids == w.expected("x" * (5 + number))
        w.check_empty()


def touch(w: SeparateWorld) -> bool:
    """Gives every session that is open still something to compute."""
    for number in range(5):
        for text in ("y", "x"):
            with contextlib.suppress(NotFound, Unavailable):
                w.orchestrator.update(f"{number}", text * (5 + number))
    return False


@pytest.mark.parametrize("index", [0, 1])
def test_lost_kv_is_computed_again_elsewhere_also_for_those_who_were_in_the_step(index: int) -> None:
    with separate_world("ppgg") as w:
        idle = Recorder()
        w.orchestrator.open(sink=idle, session_id="idle", content="computed before")
        decoding = [w.ask(f"<{i}>", params=LONG) for i in range(6)]
        wait_until(lambda: all(sink.events for sink in decoding))
        for engine in w.engines[2 * index : 2 * index + 2]:
            engine.loses_kv = True
        w.orchestrator.append("idle", ", and behind it", final=True)
        assert idle.ids == w.expected("computed before, and behind it")
        assert [sink.ids for sink in decoding] == [w.expected(f"<{i}>", 30) for i in range(6)]
        w.check_empty()
        assert all(engine.failure is None for engine in w.orchestrator.stats().engines)


def test_a_session_that_takes_engine_after_engine_along_is_not_tried_for_ever() -> None:
    with separate_world("ppg") as w:
        for engine in w.engines:
            engine.poisonous = "bad"
        idle = Recorder()
        w.orchestrator.open(sink=idle, session_id="idle", content="computed before")
        error = w.ask("bad", session_id="bad").error
        assert isinstance(error, InternalError)
        w.orchestrator.finish("idle")
        assert idle.ids == w.expected("computed before")
        w.check_empty()


def test_a_session_that_goes_on_after_each_loss_is_tried_again_and_again() -> None:
    class Breaker(Recorder):
        def __call__(self, event: SinkEvent) -> None:
            super().__call__(event)
            if len(self.events) % 5 == 0:
                for engine in w.engines:
                    engine.loses_kv = True

    with separate_world("bb") as w:
        sink = Breaker()
        w.orchestrator.open(sink=sink, content="<", final=True, params=LONG)
        assert sink.ids == w.expected("<", 30)
        assert w.orchestrator.stats().counters.sessions_resumed > MOST_FAILURES
        w.check_empty()


@pytest.mark.parametrize("seed", range(4))
def test_random_failures_under_load(seed: int) -> None:
    """Engines die and lose KV, pages get lost, clients cancel: every session ends as it should, or says why not."""
    rng = random.Random(seed)
    transport = BrokenTransport(lost_runs=rng.randrange(8))
    transport.opened.set()
    outcomes: list[str] = []

    def run(number: int) -> None:
        sink = Recorder()
        try:
            text = stream(w, number, sink)
        except Unavailable:
            outcomes.append("unavailable")
            return
        except NotFound:  # it ended with an error while its context was coming
            assert isinstance(sink.error, Unavailable | InternalError)
            outcomes.append("failed")
            return
        if number % 7 == 0:
            w.orchestrator.cancel(f"s{number}")
        if isinstance(sink.last, FailedEvent):
            assert isinstance(sink.error, Unavailable | InternalError)
            outcomes.append("failed")
        elif sink.done.finish_reason == "cancelled":
            outcomes.append("cancelled")
        else:
            assert sink.ids == w.expected(text)
            outcomes.append("right")

    with separate_world("pppgg", transport=transport, num_blocks=40, max_sessions=40) as w:
        stop = threading.Event()

        def break_things() -> None:
            victims = [0, 3] if seed % 2 else [1]
            while not stop.wait(0.03):
                engine = w.engines[rng.randrange(5)]
                engine.loses_kv = True
                if victims and rng.random() < 0.3:
                    w.engines[victims.pop()].dies = True

        breaker = threading.Thread(target=break_things)
        breaker.start()
        with ThreadPoolExecutor(24) as pool:
            for future in [pool.submit(run, number) for number in range(120)]:
                future.result()
        stop.set()
        breaker.join()
        for engine in w.engines:
            engine.loses_kv = False
        assert w.ask("after all that").ids == w.expected("after all that")
        w.check_empty()
    assert len(outcomes) == 120
    assert outcomes.count("right") > 60
