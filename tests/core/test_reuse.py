"""What is computed once is not computed again: after updates, between sessions, and after a loss of memory."""

from collections.abc import Sequence

import pytest

from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.costs import PhysicalCosts
from s2l_jax.core.ids import SessionId
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import Chunk, StepPlan
from s2l_jax.core.reuse import Restore, plan_restore
from s2l_jax.core.scheduler import Scheduler
from s2l_jax.core.session import Session
from tests.core.test_scheduler import A, B, C, Driver, make
from tests.fakes import reference_output

ONE = SamplingParams(max_tokens=1, ignore_eos=True)
FIRST, SECOND = list(range(18)), [*range(7), *range(60, 73)]


def computed(plans: Sequence[StepPlan], session_id: SessionId = A) -> int:
    """Tokens that a session ran through the model."""
    chunks: list[Chunk] = [chunk for plan in plans for chunk in plan.chunks if chunk.session_id == session_id]
    return sum(len(chunk.tokens) for chunk in chunks)


@pytest.mark.parametrize(("max_sessions", "last_token"), [(2, 0), (1, 1)])
@pytest.mark.parametrize("is_final", [False, True])
def test_an_update_that_comes_back_recomputes_nothing(max_sessions: int, last_token: int, is_final: bool) -> None:
    driver = Driver(make(num_blocks=32, max_sessions=max_sessions))
    driver.scheduler.open(A, FIRST, ONE, 0.0)
    assert computed(driver.drain()) == 18
    driver.scheduler.update(A, SECOND, 0.0)
    assert computed(driver.drain()) == 13  # 7 of 20 are common: a perfect longest common prefix
    driver.scheduler.update(A, FIRST, 0.0, final=is_final)
    assert computed(driver.drain()) == last_token  # with no row to spare its hidden state is gone
    if not is_final:
        driver.scheduler.finish(A, 0.0)
        driver.drain()
    assert driver.tokens(A) == reference_output(FIRST, 1)
    stats = driver.outputs[-1].stats
    assert stats is not None and stats.computed_tokens == 31 + last_token


def test_a_context_computed_by_another_session_needs_only_a_sample() -> None:
    driver = Driver(make())
    driver.scheduler.open(A, FIRST, ONE, 0.0)
    driver.drain()
    driver.scheduler.update(A, SECOND, 0.0)
    driver.scheduler.open(B, FIRST, ONE, 0.0, final=True)
    plan = driver.step()
    assert plan is not None and computed([plan], B) == 0
    driver.drain()
    assert driver.tokens(B) == reference_output(FIRST, 1)


@pytest.mark.parametrize("common", range(2, 18))
def test_updates_keep_the_common_prefix_to_the_token(common: int) -> None:
    driver = Driver(make(num_blocks=32))
    driver.scheduler.open(A, FIRST, ONE, 0.0)
    driver.drain()
    context = [*FIRST[:common], *range(100, 110)]
    driver.scheduler.update(A, context, 0.0, final=True)
    lost_at_a_boundary = common % 4 == 1  # a single token of a block is not worth a copy
    assert computed(driver.drain()) == len(context) - common + lost_at_a_boundary
    assert driver.tokens(A) == reference_output(context, 1)


def test_sessions_share_a_template_to_the_token() -> None:
    driver = Driver(make(num_blocks=32))
    template = list(range(11))
    for index, session_id in enumerate((A, B, C)):
        driver.scheduler.open(session_id, [*template, *range(50 + 20 * index, 60 + 20 * index)], ONE, 0.0, final=True)
        assert computed(driver.drain(), session_id) == (21 if session_id == A else 10)
        assert driver.tokens(session_id) == reference_output([*template, *range(50 + 20 * index, 60 + 20 * index)], 1)


def test_tenants_share_nothing() -> None:
    driver = Driver(make(num_blocks=32))
    for session_id, tenant in ((A, "one"), (B, "other"), (C, "one")):
        driver.scheduler.open(session_id, range(21), ONE, 0.0, final=True, tenant=tenant)
        assert computed(driver.drain(), session_id) == (1 if session_id == C else 21)


def test_shared_blocks_are_held_once_and_survive_one_of_their_owners() -> None:
    driver = Driver(make(num_blocks=16))
    driver.scheduler.open(A, range(17), ONE, 0.0)
    driver.drain()
    driver.scheduler.open(B, range(17), ONE, 0.0)
    driver.drain()
    assert driver.scheduler.stats().held_blocks == 6  # four are shared
    driver.scheduler.cancel(A)
    driver.scheduler.check_integrity()
    driver.scheduler.finish(B, 0.0)
    driver.drain()
    assert driver.tokens(B) == reference_output(range(17), 1)


def test_output_of_one_session_is_context_of_the_next() -> None:
    driver = Driver(make(num_blocks=32))
    params = SamplingParams(max_tokens=8, ignore_eos=True)
    driver.scheduler.open(A, range(10), params, 0.0, final=True)
    driver.drain()
    talk = [*range(10), *driver.tokens(A), 7, 7]
    driver.scheduler.open(B, talk, ONE, 0.0, final=True)
    assert (
        computed(driver.drain(), B) == 4
    )  # the token sampled last was never run, the one before is alone in its block
    assert driver.tokens(B) == reference_output(talk, 1)


def test_lost_kv_comes_back_from_the_host() -> None:
    scheduler = make(num_blocks=8, max_model_len=32, host_blocks=16, preemption="swap")
    driver = Driver(scheduler)
    scheduler.open(A, range(28), ONE, 0.0)
    driver.drain()
    scheduler.open(B, range(50, 74), ONE, 0.0, final=True)
    driver.drain()
    assert scheduler.session(A).preemptions > 0
    scheduler.finish(A, 0.0)
    driver.drain()
    stats = next(output.stats for output in driver.outputs if output.session_id == A)
    assert driver.tokens(A) == reference_output(range(28), 1)
    assert stats is not None and stats.recomputed_tokens == 0 and stats.restored_tokens >= 20
    counters = scheduler.stats().preemptions
    assert counters.loaded_blocks <= counters.saved_blocks + counters.backup_blocks
    assert counters.swap + counters.drop > 0 and counters.recompute == 0


def test_kv_that_the_device_forgot_comes_back_from_the_host() -> None:
    driver = Driver(make(num_blocks=8, max_model_len=32, host_blocks=16))
    driver.scheduler.open(A, range(28), ONE, 0.0)
    for now_s in range(12):  # backed up once the pool is half full
        driver.step(float(now_s))
    driver.scheduler.append(A, [3], 12.0)
    driver.drain()
    assert driver.scheduler.stats().host.backups > 0
    driver.engine.pages[:] = 0
    driver.scheduler.forget_kv()
    driver.scheduler.check_integrity()
    driver.scheduler.finish(A, 13.0)
    driver.drain()
    assert driver.tokens(A) == reference_output([*range(28), 3], 1)
    stats = driver.outputs[-1].stats
    assert stats is not None and stats.restored_tokens > 0


def waiting(tokens: int) -> Session:
    return Session(A, 0, ONE, seed=0, arrival=0, now_s=0.0, block_size=tokens)  # type: ignore[arg-type]


def test_restoring_loads_computes_or_splits_by_what_is_cheaper() -> None:
    session = waiting(16)
    slow_link = PhysicalCosts(step_s=0.01, token_s=1e-3, attended_s=0, swap_in_s=0, swap_in_block_s=0.012)
    assert plan_restore(session, 10, 512, slow_link, forced=False, alone=False) == Restore(0, 10)
    front, back = plan_restore(session, 10, 512, slow_link, forced=False, alone=True)
    assert front + back == 10
    assert slow_link.recompute(front * 16, 0) <= slow_link.swap_in(back)  # computed while the rest is loaded
    assert slow_link.recompute((front + 1) * 16, 0) > slow_link.swap_in(back - 1)
    assert front > 0
    dead_link = PhysicalCosts(swap_in_block_s=1.0)
    assert plan_restore(session, 10, 512, dead_link, forced=False, alone=True) == Restore(0, 0)
    assert plan_restore(session, 10, 512, dead_link, forced=True, alone=True) == Restore(0, 10)


def test_the_front_is_computed_while_the_back_is_loaded() -> None:
    costs = PhysicalCosts(step_s=0, token_s=1e-3, attended_s=0, swap_in_s=0, swap_in_block_s=3e-3, swap_out_block_s=0)
    config = SchedulerConfig(
        num_blocks=8, block_size=4, token_budget=32, max_batch=4, max_sessions=4, max_model_len=32, host_blocks=16
    )
    driver = Driver(Scheduler(config, costs))
    driver.scheduler.open(A, range(28), ONE, 0.0)
    driver.drain()
    driver.scheduler.open(B, range(50, 80), ONE, 0.0, final=True)
    while not driver.tokens(B):
        driver.step()
    driver.scheduler.finish(A, 0.0)
    plan = driver.step()
    assert plan is not None and plan.loads and computed([plan]) > 1
    driver.drain()
    assert driver.tokens(A) == reference_output(range(28), 1)
