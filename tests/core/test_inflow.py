"""Blocks that come ahead of their session: whatever becomes of them, nothing that is cached is ever wrong."""

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.ids import SessionId
from s2l_jax.core.inflow import Expected, content_of, full_blocks
from s2l_jax.core.keys import BlockKey, child_key, root_key
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.scheduler import Scheduler
from s2l_jax.core.session import SessionState
from tests.fake_device import FakeDevice
from tests.fake_model import entries_of
from tests.fakes import Context, reference_output

SIZE, SESSIONS, A, B = 4, 8, SessionId("a"), SessionId("b")
TEXTS = np.random.default_rng(0).integers(0, 3, (3, 40)).tolist()


class Client:
    """What a client knows of its session."""

    def __init__(self, tokens: Sequence[int], max_tokens: int) -> None:
        self.context, self.max_tokens = list(tokens), max_tokens
        self.is_final, self.has_moved = False, False
        self.output: list[int] = []


class Two:
    """A prefill and a generate engine. After every move all blocks that are held or found by content are looked at."""

    def __init__(self, *, prefill_blocks: int = 32, generate_blocks: int = 32, host_blocks: int = 0) -> None:
        common = {"block_size": SIZE, "token_budget": 12, "max_batch": 4, "max_model_len": 48, "max_sessions": SESSIONS}
        self.schedulers = [
            Scheduler(SchedulerConfig(num_blocks=prefill_blocks, role="prefill", **common)),  # type: ignore[arg-type]
            Scheduler(SchedulerConfig(num_blocks=generate_blocks, host_blocks=host_blocks, **common)),  # type: ignore[arg-type]
        ]
        self.prefill, self.generate = self.schedulers
        self.engines = [
            FakeDevice(blocks, SIZE, SESSIONS, host_blocks=host_blocks) for blocks in (prefill_blocks, generate_blocks)
        ]
        self.clients: dict[SessionId, Client] = {}
        self.done: list[Client] = []
        self.flying: list[tuple[SessionId, Expected, tuple[np.ndarray, np.ndarray]]] = []
        self.tally: Counter[str] = Counter()
        self._texts: dict[BlockKey, tuple[int, ...]] = {}

    # Moves

    def open(self, name: SessionId, tokens: Sequence[int], max_tokens: int = 4) -> None:
        self.clients[name] = Client(tokens, max_tokens)
        self.prefill.open(name, tokens, SamplingParams(max_tokens=max_tokens, ignore_eos=True), 0.0)

    def change(self, name: SessionId, keep: int, tokens: Sequence[int]) -> None:
        client = self.clients[name]
        client.context = client.context[:keep] + list(tokens)
        self.prefill.update(name, tokens, 0.0, keep=keep)

    def finish(self, name: SessionId) -> None:
        self.prefill.finish(name, 0.0)
        self.clients[name].is_final = True

    def cancel(self, name: SessionId) -> None:
        self.schedulers[self.clients.pop(name).has_moved].cancel(name)

    def step(self, side: int) -> bool:
        scheduler, engine = self.schedulers[side], self.engines[side]
        plan = scheduler.plan(0.0)
        if plan is None:
            return False
        contexts = {name: Context("", (*c.context, *c.output)) for name, c in self.clients.items()}
        engine.submit(plan, contexts)
        for output in scheduler.commit(engine.collect(), 0.0):
            client = self.clients[output.session_id]
            client.output.append(output.token.token_id)
            if output.finish_reason is not None:
                self.done.append(self.clients.pop(output.session_id))
        return True

    def send(self, name: SessionId, first: int, count: int, spare: int = 0) -> bool:
        """Sends full blocks, as they are now, if the other side wants them."""
        session = self.prefill.session(name)
        if full_blocks(session) < first + count:
            return False
        content = content_of(session, first, count)
        self._note_texts()
        known = self.generate.inflow.known(content)
        self.tally["known"] += known
        expected = None if known == count else self.generate.inflow.expect(content, spare)
        if expected is None:
            return False
        self.flying.append(
            (name, expected, self.engines[0].gather(session.blocks.view[first : first + count].tolist()))
        )
        return True

    def land(self, at: int, *, has_come: bool = True) -> None:
        _, expected, pages = self.flying.pop(at)
        if has_come:
            self.engines[1].scatter(expected.blocks.tolist(), pages)
        self.generate.inflow.settle(expected, has_come=has_come)
        self.tally["come" if has_come else "lost"] += 1

    def hand_over(self, name: SessionId) -> bool:
        handoff = self.prefill.hand_over(name)
        target = self.generate.adopt(handoff, [expected for sender, expected, _ in self.flying if sender == name])
        if target is None:
            return False
        for row in [row for row in self.flying if row[1] not in self.generate.inflow]:
            self.flying.remove(row)
            self.engines[1].scatter(row[1].blocks.tolist(), row[2])
            self.tally["taken on their way"] += 1
        self.tally["blocks shared"] += len(handoff.blocks) - len(target)
        self.tally["blocks moved"] += len(target)
        pages = self.engines[0].gather(handoff.blocks[len(handoff.blocks) - len(target) :].tolist())
        self.engines[1].scatter(target.tolist(), pages)
        self.prefill.cancel(name)
        self.generate.arrive(name, 0.0)
        self.clients[name].has_moved = True
        return True

    def lose_kv(self, side: int) -> None:
        self.engines[side].lose_kv()
        self.schedulers[side].forget_kv()

    def ready(self) -> list[SessionId]:
        return [
            name for name, client in self.clients.items()
            if not client.has_moved and self.prefill.session(name).state is SessionState.HANDOFF
        ]  # fmt: skip

    def drain(self) -> None:
        """Everything ends; what is under way ahead comes only when nobody can go on before."""
        for name, client in list(self.clients.items()):
            if not client.is_final:
                self.change(name, len(client.context), [1])
                self.finish(name)
        for _ in range(500):
            moved = [self.hand_over(name) for name in self.ready()]
            if not any([*moved, self.step(0), self.step(1)]):
                if not self.flying:
                    break
                self.land(0)
            self.check()
        assert not self.clients
        for client in self.done:
            assert client.output == reference_output(client.context, client.max_tokens)

    # What must hold

    def check(self) -> None:
        for side, (scheduler, engine) in enumerate(zip(self.schedulers, self.engines, strict=True)):
            scheduler.check_integrity()
            contexts = {n: Context("", (*c.context, *c.output)) for n, c in self.clients.items() if c.has_moved == side}
            engine.inspect(scheduler, contexts)
        self._note_texts()
        pool = self.generate._memory.pool
        for block, (_, key, _) in pool.index.entries.items():
            if key is not None:
                right = entries_of(self._texts[key])[-SIZE:]
                assert (self.engines[1].pages[block] == right).all(), f"block {block} is not what its key says"
        expected = sum(len(blocks) for blocks in self.generate.inflow.blocks)
        assert pool.free + pool.cached + pool.held == pool.total
        assert pool.held >= expected == sum(len(each.blocks) for _, each, _ in self.flying)

    def check_empty(self) -> None:
        assert [scheduler.held_blocks for scheduler in self.schedulers] == [0, 0]
        assert not self.generate.inflow._keys

    def _note_texts(self) -> None:
        """Keeps what each key stands for, since contexts change."""
        for client in (*self.clients.values(), *self.done):
            key, context = root_key(""), (*client.context, *client.output)
            for end in range(SIZE, len(context) + 1, SIZE):
                key = child_key(key, np.asarray(context[end - SIZE : end], np.int32).tobytes())
                self._texts[key] = context[:end]


def random_move(two: Two, draw: random.Random) -> None:
    streams = [name for name, client in two.clients.items() if not client.is_final]
    here = [name for name, client in two.clients.items() if not client.has_moved]
    text = draw.choice(TEXTS)[: draw.randrange(41)]
    kind = draw.choice(
        ["open", "append", "update", "finish", "step", "step", "step", "send", "send", "land", "move", "rare"]
    )
    if kind == "open" and len(two.clients) < SESSIONS:
        names = [SessionId(f"s{i}") for i in range(SESSIONS) if SessionId(f"s{i}") not in two.clients]
        two.open(names[0], text[:30], draw.choice([1, 2, 5, 8]))
    elif kind in ("append", "update") and streams:
        name = draw.choice(streams)
        length = len(two.clients[name].context)
        keep = draw.randrange(length + 1) if kind == "update" else length
        two.change(name, keep, text[: max(0, 39 - keep)])
    elif kind == "finish" and streams:
        name = draw.choice(streams)
        if two.clients[name].context:
            two.finish(name)
    elif kind == "step":
        two.step(draw.randrange(2))
    elif kind == "send" and here:
        two.send(draw.choice(here), draw.choice([0, 0, 1, 2, 4]), draw.choice([1, 2, 4]), draw.choice([0, 2, 8]))
    elif kind == "land" and two.flying:
        two.land(draw.randrange(len(two.flying)), has_come=draw.random() < 0.8)
    elif kind == "move" and two.ready():
        two.hand_over(draw.choice(two.ready()))
    elif kind == "rare":
        rare_move(two, draw)


def rare_move(two: Two, draw: random.Random) -> None:
    chance = draw.random()
    if chance < 0.1:
        two.lose_kv(draw.randrange(2))
    elif chance < 0.4 and two.clients:
        two.cancel(draw.choice([*two.clients]))
    elif chance < 0.7 and two._texts:
        two.generate.inflow.give_way(draw.sample([*two._texts], min(8, len(two._texts))))


def test_whatever_is_sent_ahead_and_whatever_becomes_of_it_answers_are_right() -> None:
    tally: Counter[str] = Counter()
    for seed in range(80):
        draw = random.Random(seed)
        two = Two(
            prefill_blocks=draw.choice([14, 20, 40]),
            generate_blocks=draw.choice([12, 14, 20, 40]),
            host_blocks=draw.choice([0, 6]),
        )
        for _ in range(120):
            random_move(two, draw)
            two.check()
        two.drain()
        while two.flying:
            two.land(0, has_come=draw.random() < 0.5)
            two.check()
        two.check_empty()
        tally += two.tally
    kinds = ("known", "come", "lost", "blocks shared", "blocks moved", "taken on their way")
    assert min(tally[kind] for kind in kinds) > 20, tally


def test_only_the_tail_is_left_to_move() -> None:
    two = Two()
    two.open(A, range(16))
    while two.step(0):
        pass
    assert two.send(A, 0, 4)
    two.land(0)
    two.change(A, 16, range(16, 30))
    two.finish(A)
    two.drain()
    assert (two.tally["blocks shared"], two.tally["blocks moved"]) == (4, 4)
    two.check_empty()


def test_what_is_still_on_its_way_is_not_sent_again() -> None:
    two = Two()
    two.open(A, range(31))
    while two.step(0):
        pass
    assert two.send(A, 0, 2)
    assert two.send(A, 2, 4)
    two.land(0)
    two.finish(A)
    two.step(0)
    assert two.hand_over(A)
    assert (two.tally["taken on their way"], two.tally["blocks moved"], two.flying) == (1, 2, [])
    two.drain()
    two.check_empty()


def test_what_an_update_replaces_is_not_what_the_session_goes_on_with() -> None:
    two = Two()
    two.open(A, range(24))
    while two.step(0):
        pass
    assert two.send(A, 0, 6)
    two.change(A, 10, range(50, 60))  # while it is on its way
    two.land(0)
    two.check()
    two.finish(A)
    two.drain()
    assert two.tally["blocks shared"] == 2
    two.check_empty()


def test_an_update_that_comes_back_finds_what_was_sent() -> None:
    two = Two()
    two.open(A, range(24))
    while two.step(0):
        pass
    two.send(A, 0, 6)
    two.land(0)
    two.change(A, 0, range(50, 60))
    two.change(A, 0, range(24))
    two.finish(A)
    two.drain()
    assert two.tally["blocks shared"] == 6


def test_nothing_is_brought_twice() -> None:
    two = Two()
    for name in (A, B):
        two.open(name, range(16))
        while two.step(0):
            pass
    assert two.send(A, 0, 4)
    assert not two.send(B, 0, 4)
    two.land(0)
    assert not two.send(A, 0, 4)


def test_what_is_sent_ahead_leaves_room_for_those_who_are_there() -> None:
    two = Two(generate_blocks=12)
    two.open(A, range(32))
    while two.step(0):
        pass
    assert not two.send(A, 0, 8, spare=5)
    assert two.send(A, 0, 8, spare=4)
    two.land(0)
    assert two.generate.stats().held_blocks == 0


def filled(generate_blocks: int) -> Two:
    """Eight blocks of A have come, the second four of them later."""
    two = Two(generate_blocks=generate_blocks)
    two.open(A, range(40, 72))
    while two.step(0):
        pass
    for first in (0, 4):
        assert two.send(A, first, 4)
        two.land(0)
    return two


def test_memory_is_taken_from_the_end_of_a_context() -> None:
    two = filled(12)
    two.open(B, range(24))
    while two.step(0):
        pass
    assert two.send(B, 0, 6)  # four of these were free
    assert two.generate.cached_tokens(np.arange(40, 72, dtype=np.int32)) == 24


def test_what_nobody_waits_for_gives_way_first() -> None:
    two = filled(12)
    two.open(B, range(16))
    while two.step(0):
        pass
    two.send(B, 0, 4)
    two.land(0)
    keys = two.prefill.session(A).keys(4, 8)
    two.generate.inflow.give_way(keys)
    expected = two.generate.inflow.expect(content_of(two.prefill.session(A), 0, 4), 0)  # as good as any other four
    assert expected is not None
    assert two.generate.cached_tokens(np.arange(40, 72, dtype=np.int32)) == 16
    assert two.generate.cached_tokens(np.arange(16, dtype=np.int32)) == 16


@pytest.mark.parametrize("lands_first", [True, False])
def test_kv_that_is_lost_is_not_found_any_more(lands_first: bool) -> None:
    two = Two()
    two.open(A, range(16))
    while two.step(0):
        pass
    two.send(A, 0, 4)
    if lands_first:
        two.land(0)
    two.lose_kv(1)
    two.check()
    assert two.generate.cached_tokens(np.arange(16, dtype=np.int32)) == 0
    if not lands_first:
        two.land(0)
        assert two.generate.cached_tokens(np.arange(16, dtype=np.int32)) == 16
    two.check()
