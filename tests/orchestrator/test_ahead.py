"""Blocks leave before their session does: less is left to move, and nothing else changes."""

import threading
from dataclasses import replace

import pytest

from s2l_jax.core.params import SamplingParams
from s2l_jax.orchestrator.config import OrchestratorConfig
from tests.orchestrator.harness import TIMEOUT_S, Recorder, wait_until
from tests.orchestrator.separate_harness import BrokenTransport, SeparateWorld, separate_world

CONFIG = OrchestratorConfig(default_max_tokens=8, progress_interval_s=0.0)
TEXT = "abcdefghij" * 11  # 27 full blocks of four and a half


def start(w: SeparateWorld, text: str, name: str = "s", **params: object) -> Recorder:
    """A stream whose context is not complete."""
    sink = Recorder()
    w.orchestrator.open(sink=sink, session_id=name, content=text, **params)  # type: ignore[arg-type]
    return sink


def cached(w: SeparateWorld, unit: int = 1) -> int:
    """Blocks that the engine which generates has and nobody holds."""
    return w.orchestrator.stats().engines[unit].scheduler.cached_blocks


def wait_until_cached(w: SeparateWorld, blocks: int, unit: int = 1) -> None:
    wait_until(lambda: cached(w, unit) == blocks)


@pytest.mark.parametrize("sends_ahead", [True, False])
def test_only_the_tail_moves_after_the_last_chunk(sends_ahead: bool) -> None:
    with separate_world("pg", config=replace(CONFIG, send_ahead=sends_ahead)) as w:
        sink = start(w, TEXT)
        if sends_ahead:
            wait_until_cached(w, 24)
        w.orchestrator.append("s", "!", final=True)
        assert sink.ids == w.expected(TEXT + "!")
        counters = w.orchestrator.stats().counters
        assert (counters.ahead_blocks, counters.handoff_blocks) == ((24, 4) if sends_ahead else (0, 28))
        w.check_empty()


def test_a_long_prompt_leaves_while_the_rest_of_it_is_computed() -> None:
    with separate_world("pg", token_budget=16) as w:
        sinks = [w.ask(TEXT + f"{i}") for i in range(3)]
        assert [sink.ids for sink in sinks] == [w.expected(TEXT + f"{i}") for i in range(3)]
        counters = w.orchestrator.stats().counters
        assert counters.ahead_blocks + counters.handoff_blocks >= 28
        assert counters.ahead_blocks >= 8
        w.check_empty()


def test_what_is_on_its_way_at_the_first_token_is_not_sent_twice() -> None:
    transport = BrokenTransport()
    with separate_world("pg", transport=transport) as w:
        sink = start(w, TEXT)
        assert transport.entered.wait(TIMEOUT_S)
        w.orchestrator.append("s", "!", final=True)
        wait_until(lambda: len(sink.events) > 0 and w.orchestrator.stats().engines[1].scheduler.sessions != {})
        transport.opened.set()
        assert sink.ids == w.expected(TEXT + "!")
        counters = w.orchestrator.stats().counters
        assert (counters.handoffs, counters.ahead_blocks + counters.handoff_blocks) == (1, 28)
        assert counters.ahead_blocks >= 8
        w.check_empty()


def test_an_update_takes_back_what_has_not_come_and_lets_the_rest_give_way() -> None:
    transport = BrokenTransport()
    with separate_world("pg", transport=transport) as w:
        sink = start(w, TEXT)
        assert transport.entered.wait(TIMEOUT_S)
        w.orchestrator.update("s", "x" * 50, keep_chars=40)
        assert w.orchestrator.stats().engines[1].scheduler.held_blocks <= 16  # eight that stay, and eight that follow
        transport.opened.set()
        wait_until(lambda: w.orchestrator.stats().engines[1].scheduler.held_blocks == 0)
        wait_until(lambda: cached(w) >= 16)
        w.orchestrator.finish("s")
        assert sink.ids == w.expected(TEXT[:40] + "x" * 50)
        w.check_empty()


def test_a_session_that_ends_without_moving_leaves_blocks_to_whoever_needs_them() -> None:
    """The pool holds what one more session needs, but only if nobody holds what the first two have sent."""
    with separate_world("pg", generate_blocks=32) as w:
        for name in ("cancelled", "short"):
            max_tokens = 1 if name == "short" else 8
            sink = start(w, TEXT + name, name, params=SamplingParams(max_tokens=max_tokens))
            if name == "cancelled":
                wait_until_cached(w, 24)
                w.orchestrator.cancel(name)
            else:
                w.orchestrator.finish(name)
            assert sink.done
        assert w.orchestrator.stats().counters.ahead_blocks == 24  # who has one token only does not move
        w.check_empty()
        assert w.ask("z" * 100, params=SamplingParams(max_tokens=20, ignore_eos=True)).ids == w.expected("z" * 100, 20)
        w.check_empty()


def test_those_who_generate_keep_their_memory() -> None:
    with separate_world("pg", generate_blocks=32) as w:
        running = w.ask("r" * 60, params=SamplingParams(max_tokens=60, ignore_eos=True))
        sinks = [start(w, f"{i}" * 100, f"{i}") for i in range(5)]
        assert running.ids == w.expected("r" * 60, 60)
        assert w.orchestrator.stats().engines[1].scheduler.preemptions.recompute == 0
        for i, sink in enumerate(sinks):
            w.orchestrator.append(f"{i}", "!", final=True)
            assert sink.ids == w.expected(f"{i}" * 100 + "!")
        w.check_empty()


def test_pages_that_get_lost_ahead_move_with_the_tail() -> None:
    transport = BrokenTransport(lost_runs=2)
    transport.opened.set()
    with separate_world("pg", transport=transport) as w:
        sink = start(w, TEXT)
        wait_until(lambda: transport.lost_runs == 0)
        wait_until_cached(w, 8)
        w.orchestrator.append("s", "!", final=True)
        assert sink.ids == w.expected(TEXT + "!")
        counters = w.orchestrator.stats().counters
        assert (counters.handoff_failures, counters.sessions_resumed, counters.handoffs) == (0, 0, 1)
        w.check_empty()


@pytest.mark.parametrize("index", [0, 1, 2])
def test_an_engine_that_dies_takes_nothing_with_it(index: int) -> None:
    """The one that sent, the one that received, and one that had nothing to do with it."""
    with separate_world("pgg") as w:
        sinks = [start(w, TEXT + f"{i}", f"{i}") for i in range(2)]
        for unit in (1, 2):  # one goes where the other does not
            wait_until_cached(w, 24, unit)
        w.engines[index].dies = True
        for i, sink in enumerate(sinks):
            w.orchestrator.append(f"{i}", "!", final=True)
            assert sink.ids == w.expected(TEXT + f"{i}!")
        w.check_empty()


@pytest.mark.parametrize("index", [0, 1])
def test_lost_kv_is_not_gone_on_with(index: int) -> None:
    with separate_world("pg") as w:
        sink = start(w, TEXT)
        wait_until_cached(w, 24)
        w.engines[index].loses_kv = True
        other = w.ask("another one", params=SamplingParams(max_tokens=3, ignore_eos=True))
        assert other.ids == w.expected("another one", 3)
        w.orchestrator.append("s", "!", final=True)
        assert sink.ids == w.expected(TEXT + "!")
        w.check_empty()


def test_many_streams_at_once() -> None:
    """Contexts come in pieces, with updates, into pools too small for all of them."""

    def run(number: int) -> None:
        text = f"{number:03}" + TEXT[number % 7 :]
        sink = start(w, text[:50], f"{number}")
        w.orchestrator.append(f"{number}", text[50:90])
        if number % 3 == 0:
            text = text[:70]
            w.orchestrator.update(f"{number}", "", keep_chars=70)
        w.orchestrator.append(f"{number}", text[90:] + "?", final=True)
        if sink.ids != w.expected(text + "?"):
            wrong.append(number)

    wrong: list[int] = []
    with separate_world("ppgg", num_blocks=64, generate_blocks=40, max_sessions=40, token_budget=16) as w:
        threads = [threading.Thread(target=run, args=(number,)) for number in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert w.orchestrator.stats().counters.ahead_blocks > 0
        w.check_empty()
