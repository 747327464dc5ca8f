"""A session is computed in one engine and goes on in another; what comes out is what one engine alone gives."""

import random
from dataclasses import replace

import numpy as np
import pytest

from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from s2l_jax.core.handoff import pack
from s2l_jax.core.ids import SessionId
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.scheduler import Scheduler
from s2l_jax.core.session import SessionState
from tests.fakes import FakeEngine, reference_output

A, B = SessionId("a"), SessionId("b")


class Side:
    """One scheduler and its engine."""

    def __init__(self, role: str, **changes: object) -> None:
        values: dict = {
            "num_blocks": 32,
            "block_size": 4,
            "token_budget": 8,
            "max_batch": 4,
            "max_sessions": 4,
            "max_model_len": 64,
            "role": role,
            **changes,
        }
        self.scheduler = Scheduler(SchedulerConfig(**values))
        self.engine = FakeEngine(
            values["num_blocks"], 4, values["max_sessions"], host_blocks=values.get("host_blocks", 0)
        )

    def step(self, outputs: dict[str, list[int]], ended: set[str]) -> bool:
        plan = self.scheduler.plan(0.0)
        if plan is None:
            return False
        for output in self.scheduler.commit(self.engine.execute(plan), 0.0):
            outputs.setdefault(output.session_id, []).append(output.token.token_id)
            if output.finish_reason is not None:
                ended.add(output.session_id)
        self.scheduler.check_integrity()
        return True


class Pair:
    """A prefill and a generate engine; KV moves between them at once, or when told."""

    def __init__(self, *, generate_blocks: int = 32, **changes: object) -> None:
        self.prefill = Side("prefill")
        self.generate = Side("both", num_blocks=generate_blocks, max_model_len=min(64, generate_blocks * 4), **changes)
        self.outputs: dict[str, list[int]] = {}
        self.ended: set[str] = set()
        self.refused = 0
        self.brought = 0

    def waiting(self) -> list[SessionId]:
        sessions = self.prefill.scheduler._roster.sessions
        return [session.id for session in sessions if session.state is SessionState.HANDOFF]

    def move(self, session_id: SessionId) -> bool:
        handoff = self.prefill.scheduler.hand_over(session_id)
        target = self.generate.scheduler.adopt(handoff)
        if target is None:
            self.refused += 1
            return False
        assert len(target) <= len(handoff.blocks) == -(-handoff.computed // 4)
        self.brought += len(target)
        source = handoff.blocks[len(handoff.blocks) - len(target) :]
        self.generate.engine.pages[target] = self.prefill.engine.pages[source]
        self.prefill.scheduler.cancel(session_id)
        self.generate.scheduler.arrive(session_id, 0.0)
        return True

    def drain(self) -> None:
        for _ in range(2000):
            moved = [self.move(session_id) for session_id in self.waiting()]
            stepped = [side.step(self.outputs, self.ended) for side in (self.prefill, self.generate)]
            if not any(moved) and not any(stepped):
                return
        raise AssertionError("no end")

    def check_empty(self) -> None:
        for side in (self.prefill, self.generate):
            side.scheduler.check_integrity()
            stats = side.scheduler.stats()
            assert (stats.sessions, stats.held_blocks) == ({}, 0)


def params(count: int) -> SamplingParams:
    return SamplingParams(max_tokens=count, ignore_eos=True)


def test_the_first_token_comes_from_one_engine_and_the_others_from_another() -> None:
    pair = Pair()
    pair.prefill.scheduler.open(A, range(13), params(5), 0.0, final=True)
    while pair.prefill.step(pair.outputs, pair.ended):
        pass
    assert len(pair.outputs[A]) == 1
    assert pair.prefill.scheduler.session(A).state is SessionState.HANDOFF
    handoff = pair.prefill.scheduler.hand_over(A)
    assert (handoff.computed, len(handoff.tokens), handoff.prompt_tokens) == (13, 14, 13)
    pair.drain()
    assert pair.outputs[A] == reference_output(range(13), 5)
    pair.check_empty()


def test_a_session_of_one_token_is_not_handed_over() -> None:
    pair = Pair()
    pair.prefill.scheduler.open(A, range(5), params(1), 0.0, final=True)
    pair.drain()
    assert pair.ended == {A}
    assert pair.generate.scheduler.stats().steps == 0
    pair.check_empty()


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_handed_over_answers_like_one_engine(seed: int) -> None:
    draw = random.Random(seed)
    blocks = draw.choice([12, 14, 20, 32])
    pair = Pair(generate_blocks=blocks, host_blocks=draw.choice([0, 6]), preemption=draw.choice(["auto", "swap"]))
    contexts: dict[SessionId, list[int]] = {}
    counts: dict[SessionId, int] = {}
    for number in range(12):
        name = SessionId(f"s{number}")
        tokens = [draw.randrange(3) for _ in range(draw.randrange(1, 30))]
        contexts[name], counts[name] = tokens, draw.randrange(1, 12)
        cut = draw.randrange(len(tokens) + 1)
        scheduler = pair.prefill.scheduler
        while scheduler.open_sessions == 4:
            for session_id in pair.waiting():
                pair.move(session_id)
            pair.prefill.step(pair.outputs, pair.ended)
            pair.generate.step(pair.outputs, pair.ended)
        scheduler.open(name, tokens[:cut], params(counts[name]), 0.0)
        pair.prefill.step(pair.outputs, pair.ended)
        scheduler.append(name, tokens[cut:], 0.0, final=True)
        if draw.random() < 0.1:
            scheduler.forget_kv()
            pair.prefill.engine.lose_kv()
        if draw.random() < 0.1:
            pair.generate.scheduler.forget_kv()
            pair.generate.engine.lose_kv()
    pair.drain()
    for name, tokens in contexts.items():
        assert pair.outputs[name] == reference_output(tokens, counts[name]), name
    pair.check_empty()


def test_without_room_a_session_stays_where_it_is() -> None:
    pair = Pair(generate_blocks=12)
    pair.prefill.scheduler.open(A, range(26), params(20), 0.0, final=True)
    pair.prefill.scheduler.open(B, range(26, 52), params(20), 0.0, final=True)
    pair.drain()
    assert pair.refused > 0
    assert pair.outputs[A] == reference_output(range(26), 20)
    assert pair.outputs[B] == reference_output(range(26, 52), 20)
    pair.check_empty()


def test_a_session_that_never_arrives_gives_its_blocks_back() -> None:
    pair = Pair()
    pair.prefill.scheduler.open(A, range(9), params(5), 0.0, final=True)
    while pair.prefill.step(pair.outputs, pair.ended):
        pass
    assert pair.generate.scheduler.adopt(pair.prefill.scheduler.hand_over(A)) is not None
    assert pair.generate.scheduler.held_blocks == 3
    assert pair.generate.scheduler.plan(0.0) is None
    pair.generate.scheduler.cancel(A)
    pair.prefill.scheduler.cancel(A)
    pair.check_empty()


def test_what_was_handed_over_can_be_shared() -> None:
    pair = Pair()
    for name in (A, B):
        pair.prefill.scheduler.open(name, range(12), params(3), 0.0, final=True)
        pair.drain()
    handed = pair.generate.scheduler
    handed.open(SessionId("c"), range(12), params(1), 0.0, final=True)
    pair.drain()
    assert handed.stats().sessions == {}
    assert pair.outputs["c"] == reference_output(range(12), 1)


def test_what_is_there_already_is_not_brought() -> None:
    pair = Pair()
    for name in (A, B):
        pair.prefill.scheduler.open(name, range(18), params(3), 0.0, final=True)
        assert pair.generate.scheduler.cached_tokens(np.arange(18, dtype=np.int32)) == (0 if name == A else 16)
        pair.drain()
    assert pair.brought == 5 + 1  # of the second one, only the block that is not full
    assert pair.outputs[A] == pair.outputs[B] == reference_output(range(18), 3)
    assert pair.generate.scheduler.cached_tokens(np.arange(18, dtype=np.int32), "another tenant") == 0
    pair.check_empty()


def resume(source: Scheduler, target: Scheduler, session_id: SessionId) -> None:
    """What becomes of a session whose engine is lost."""
    handoff = replace(pack(source.session(session_id)), computed=0, blocks=np.empty(0, np.int32))
    source.cancel(session_id)
    target.resume(handoff, 7.0)


@pytest.mark.parametrize("generated", [0, 1, 3])
def test_a_session_whose_kv_is_lost_goes_on_elsewhere(generated: int) -> None:
    first, second = Side("both"), Side("both")
    outputs: dict[str, list[int]] = {}
    first.scheduler.open(A, range(13), params(6), 0.0, final=True)
    while len(outputs.get(A, ())) < generated:
        first.step(outputs, set())
    resume(first.scheduler, second.scheduler, A)
    while second.step(outputs, set()):
        pass
    assert outputs[A] == reference_output(range(13), 6)
    for side in (first, second):
        side.scheduler.check_integrity()
        assert side.scheduler.held_blocks == side.scheduler.open_sessions == 0


def test_a_stream_whose_kv_is_lost_takes_its_events_elsewhere() -> None:
    pair, other = Pair(), Side("prefill")
    pair.prefill.scheduler.open(A, range(9), params(4), 0.0)
    pair.prefill.scheduler.append(A, [1, 2], 0.0, seq=2)
    pair.prefill.step(pair.outputs, pair.ended)
    resume(pair.prefill.scheduler, other.scheduler, A)
    pair.prefill = other
    assert other.scheduler.append(A, [1, 2], 0.0, seq=2).duplicate
    other.scheduler.update(A, [5], 0.0, keep=10, seq=3)
    with pytest.raises(InvalidArgument, match="events are missing"):
        other.scheduler.append(A, [1], 0.0, seq=9)
    other.scheduler.finish(A, 0.0, seq=4)
    pair.drain()
    assert pair.outputs[A] == reference_output([*range(9), 1, 5], 4)
    pair.check_empty()


def test_with_output_a_session_is_not_handed_over_again() -> None:
    pair = Pair()
    pair.prefill.scheduler.open(A, range(9), params(4), 0.0, final=True)
    while pair.prefill.step(pair.outputs, pair.ended):
        pass
    resume(pair.prefill.scheduler, pair.prefill.scheduler, A)
    pair.drain()
    assert pair.generate.scheduler.stats().steps == 0
    assert pair.outputs[A] == reference_output(range(9), 4)
    with pytest.raises(ResourceExhausted):
        full = Side("both", max_sessions=1).scheduler
        full.open(B, range(3), params(1), 0.0)
        pair.prefill.scheduler.open(A, range(9), params(4), 0.0)
        resume(pair.prefill.scheduler, full, A)


def test_refusals() -> None:
    pair = Pair(max_sessions=1)
    first, second = pair.prefill.scheduler, pair.generate.scheduler
    first.open(A, range(9), params(5), 0.0)
    with pytest.raises(FailedPrecondition, match="cannot be handed over"):
        first.hand_over(A)
    with pytest.raises(NotFound):
        first.hand_over(B)
    first.finish(A, 0.0)
    first.open(B, range(9), params(5), 0.0, final=True)
    while pair.prefill.step(pair.outputs, pair.ended):
        pass
    assert second.adopt(first.hand_over(A)) is not None
    with pytest.raises(AlreadyExists):
        second.adopt(first.hand_over(A))
    assert second.adopt(first.hand_over(B)) is None
    with pytest.raises(FailedPrecondition, match="cannot be handed over"):
        second.hand_over(A)
    second.arrive(A, 0.0)
    with pytest.raises(FailedPrecondition, match="is here already"):
        second.arrive(A, 0.0)
    with pytest.raises(InvalidArgument):
        Side("both", max_model_len=12).scheduler.adopt(first.hand_over(B))
    with pytest.raises(InvalidArgument, match="role is 'generate'"):
        Side("generate")


def test_kv_that_the_device_loses_on_the_way_is_computed_again() -> None:
    pair = Pair()
    pair.prefill.scheduler.open(A, range(9), params(5), 0.0, final=True)
    while pair.prefill.step(pair.outputs, pair.ended):
        pass
    assert pair.generate.scheduler.adopt(pair.prefill.scheduler.hand_over(A)) is not None
    pair.generate.scheduler.forget_kv()
    pair.prefill.scheduler.cancel(A)
    pair.generate.scheduler.arrive(A, 0.0)
    pair.drain()
    assert pair.outputs[A] == reference_output(range(9), 5)
    pair.check_empty()
