"""The tests are tested: known bugs, each put into the scheduler on purpose, and each must be caught."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from s2l_jax.core import keys, session
from s2l_jax.core.blocks import BlockPool
from s2l_jax.core.costs import PhysicalCosts
from s2l_jax.core.draft import Draft
from s2l_jax.core.eviction import Evictor
from s2l_jax.core.flights import Flight
from s2l_jax.core.host_pool import HostPool
from s2l_jax.core.keys import BlockKey
from s2l_jax.core.memory import Memory
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.queues import Queues
from s2l_jax.core.reuse import find_part
from s2l_jax.core.session import Session
from s2l_jax.core.step_builder import StepBuilder
from tests.core.test_law import FakeEngineLaw
from tests.core.test_regressions import make_run
from tests.hunt import error_of, hunt, shorten

Patch = Callable[[pytest.MonkeyPatch], None]


class PressedLaw(FakeEngineLaw):
    """The law where memory is short and the host is used, which is where most of the bugs are."""

    pool_sizes = (12, 14)
    preemptions = ("swap",)
    host_blocks = (6, FakeEngineLaw.max_host_blocks)


class OneTenantLaw(FakeEngineLaw):
    """The law where all may share."""

    tenants = ("",)


def try_law(machine: type[FakeEngineLaw]) -> None:
    """Up to 5000 interleavings; the first that fails is enough, and nobody wants to see a shorter one."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=5000,
            stateful_step_count=60,
            phases=[Phase.generate],
            report_multiple_bugs=False,
            database=None,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def keep_old_keys(patch: pytest.MonkeyPatch) -> None:
    """After an update, a session goes on asking for copies by the keys of its old context."""

    def keep_tokens(self: Session, tokens: int) -> None:
        self.tokens.truncate(tokens)
        self.lost = min(self.lost, tokens)

    patch.setattr(Session, "keep_tokens", keep_tokens)


def write_shared_block(patch: pytest.MonkeyPatch) -> None:
    """A block that goes on differently is shared and written, instead of copied and written."""

    def copy_part(self: StepBuilder, session: Session) -> None:
        source, tokens = find_part(session, self._memory.pool)
        if tokens:
            session.add_blocks([self._memory.pool.share(source)])
            session.hold_found(tokens)

    patch.setattr(StepBuilder, "_copy_part", copy_part)


def ignore_tenants(patch: pytest.MonkeyPatch) -> None:
    """All tenants' keys have one root."""
    patch.setattr(session, "root_key", lambda tenant: keys.root_key(""))


def ignore_what_came_before(patch: pytest.MonkeyPatch) -> None:
    """A block is named by its own tokens only, so a hit may be KV of another prefix."""
    patch.setattr(session, "child_key", lambda parent, tokens: keys.child_key(BlockKey(b""), tokens))


def load_without_epoch(patch: pytest.MonkeyPatch) -> None:
    """A load names the slot's first content, whatever is there now."""
    take = HostPool.take
    patch.setattr(HostPool, "take", lambda self, key: (take(self, key)[0], 1))


def reuse_epochs(patch: pytest.MonkeyPatch) -> None:
    """A slot's new content is not told from its old one."""
    reserve = HostPool.reserve

    def reserve_again(self: HostPool, key: BlockKey, tokens: bytes, *, swapped: bool) -> Any:
        reserved = reserve(self, key, tokens, swapped=swapped)
        if reserved is not None and reserved[1] > 1:
            self._epochs[reserved[0]] -= 1
            return reserved[0], reserved[1] - 1
        return reserved

    patch.setattr(HostPool, "reserve", reserve_again)


def save_after_writing(patch: pytest.MonkeyPatch) -> None:
    """What is evicted is saved a step later, when the page has been written again."""
    finish = StepBuilder._finish
    late: dict[int, tuple] = {}

    def finish_late(self: StepBuilder, draft: Draft) -> Flight:
        flight = finish(self, draft)
        saves, late[id(self)] = late.get(id(self), ()), flight.plan.saves
        return flight._replace(plan=flight.plan._replace(saves=saves))

    patch.setattr(StepBuilder, "_finish", finish_late)


def trust_failed_saves(patch: pytest.MonkeyPatch) -> None:
    """Copies to the host count as made although their step failed."""
    patch.setattr(Memory, "discard", lambda self, saves: None)


def keep_lost_kv(patch: pytest.MonkeyPatch) -> None:
    """What was cached on the device is used again although the device has lost it."""
    patch.setattr(BlockPool, "forget", lambda self: None)


def leak_blocks(patch: pytest.MonkeyPatch) -> None:
    """A block held twice is given back once."""

    def release(self: BlockPool, blocks: Any) -> None:
        original(self, blocks[self.has_one_holder(blocks)])

    original = BlockPool.release
    patch.setattr(BlockPool, "release", release)


def forget_who_has_work(patch: pytest.MonkeyPatch) -> None:
    """A victim is not put where work is looked for."""
    place = Queues.place
    patch.setattr(Queues, "place", lambda self, session: session.preemptions or place(self, session))


@pytest.mark.parametrize(
    ("bug", "machine"),
    [
        (keep_old_keys, FakeEngineLaw),
        (write_shared_block, FakeEngineLaw),
        (ignore_tenants, FakeEngineLaw),
        (ignore_what_came_before, OneTenantLaw),
        (load_without_epoch, PressedLaw),
        (reuse_epochs, PressedLaw),
        (save_after_writing, PressedLaw),
        (trust_failed_saves, PressedLaw),
        (keep_lost_kv, FakeEngineLaw),
        (leak_blocks, FakeEngineLaw),
        (forget_who_has_work, PressedLaw),
    ],
    ids=lambda value: value.__name__,
)
def test_the_law_catches(bug: Patch, machine: type[FakeEngineLaw], monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    with pytest.raises((AssertionError, RuntimeError)) as caught:
        try_law(machine)
    print(caught.value)


def test_the_hunt_finds_a_bug_and_cuts_its_moves_down(monkeypatch: pytest.MonkeyPatch) -> None:
    write_shared_block(monkeypatch)
    runs = (hunt(seed, Counter()) for seed in range(100))
    world, moves, error = next(run for run in runs if run[2] is not None)
    assert error is not None
    fewer = shorten(world, moves, type(error))
    assert isinstance(error_of(world, fewer)[0], type(error)) and len(fewer) < 20


# A wrong price leaves every output right: only a decision can show it.


def decide() -> tuple[int, int]:
    """A long stream loses its tail to a short prompt; how many evictions swapped, and how many threw away."""
    costs = PhysicalCosts(step_s=0, token_s=1e-3, attended_s=1e-3, swap_out_s=0, swap_in_s=0)
    costs = replace(costs, swap_out_block_s=0.02, swap_in_block_s=0.02)
    run = make_run(costs, host_blocks=32, token_budget=16, policy="s2l")
    run.open("victim", range(100, 144), SamplingParams(max_tokens=1))
    while run.advance():
        pass
    run.open("newcomer", range(8), SamplingParams(max_tokens=1), final=True)
    run.advance()
    preemptions = run.scheduler.stats().preemptions
    return preemptions.swap + preemptions.drop, preemptions.recompute


def test_a_victim_is_priced_by_its_own_tokens_at_their_positions() -> None:
    assert decide() == (1, 0)


def test_the_price_of_the_newcomer_would_decide_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    def make_room(self: Evictor, blocks: int, newcomer: Session, *args: Any, **options: Any) -> Any:
        recompute = self._costs.recompute

        class Newcomers(PhysicalCosts):
            def recompute(self, tokens: int, context: int) -> float:
                return recompute(newcomer.remaining, newcomer.computed)

        monkeypatch.setattr(self, "_costs", Newcomers(swap_out_block_s=0.02, swap_in_block_s=0.02))
        return original(self, blocks, newcomer, *args, **options)

    original = Evictor.make_room
    monkeypatch.setattr(Evictor, "make_room", make_room)
    assert decide() == (0, 1)
