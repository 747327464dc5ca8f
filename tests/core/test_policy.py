"""Who goes first: the artifact's orders exactly, and what the default adds to them."""

import pytest

from s2l_jax.core.costs import PhysicalCosts
from s2l_jax.core.errors import InvalidArgument
from s2l_jax.core.ids import SessionId
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.policy import POLICIES, STRETCH, find_policy
from s2l_jax.core.scheduler import Scheduler
from s2l_jax.core.tenants import TenantUsage
from tests.core.test_scheduler import Driver, make

ONE = SamplingParams(max_tokens=1, ignore_eos=True)
COSTS = PhysicalCosts(step_s=0, token_s=0.1, attended_s=0)


def ranked(scheduler: Scheduler, policy: str) -> list[str]:
    """Open sessions as a policy ranks them."""
    chosen = find_policy(policy, COSTS, TenantUsage())
    sessions = [scheduler.session(SessionId(name)) for name in "abcdef" if has(scheduler, name)]
    for session in sessions:
        chosen.note(session, 10.0)
    return [session.id for session in sorted(sessions, key=chosen.rank)]


def has(scheduler: Scheduler, name: str) -> bool:
    return name in scheduler._roster


def open_all(**changes: object) -> Driver:
    """Four sessions: a and c incomplete, b and d complete; the last events came in the order d, a, c, b."""
    driver = Driver(make(max_sessions=8, num_blocks=64, **changes))
    for index, name in enumerate("abcd"):
        driver.scheduler.open(SessionId(name), [10 * index] * 4, ONE, float(index))
    driver.scheduler.append(SessionId("d"), [1] * 2, 4.0, final=True)
    driver.scheduler.append(SessionId("a"), [1] * 8, 5.0)
    driver.scheduler.append(SessionId("c"), [1] * 4, 6.0)
    driver.scheduler.append(SessionId("b"), [1] * 16, 7.0, final=True)
    return driver


@pytest.mark.parametrize(
    ("policy", "order"),
    [
        ("fcfs", "bdac"),  # complete by arrival, then incomplete by arrival
        ("lcas", "dbac"),  # complete by their last chunk, then incomplete by theirs
        ("mcps", "abcd"),  # nothing is computed yet: by arrival
        ("default_vllm", "abcd"),  # nobody runs yet: by arrival
        ("s2l", "dbac"),  # complete by due time, then incomplete by arrival
    ],
)
def test_order(policy: str, order: str) -> None:
    assert "".join(ranked(open_all().scheduler, policy)) == order


def test_mcps_puts_most_computed_tokens_first() -> None:
    driver = open_all(policy="mcps")
    driver.step()
    computed = {name: driver.scheduler.session(SessionId(name)).computed for name in "abcd"}
    order = ranked(driver.scheduler, "mcps")
    assert order == sorted("abcd", key=lambda name: (-computed[name], name))
    assert computed[order[0]] > computed[order[-1]]


def test_default_vllm_puts_running_sessions_first_in_the_order_they_started() -> None:
    driver = open_all(policy="fcfs")
    driver.step()  # b gets the first 8 tokens
    assert ranked(driver.scheduler, "default_vllm") == ["b", "a", "c", "d"]


def due_order(*sessions: tuple[str, float, int]) -> list[str]:
    """How complete sessions of (name, time of the last chunk, tokens) are ranked by the default."""
    driver = Driver(make(max_sessions=8, num_blocks=64))
    for name, final_s, tokens in sessions:
        driver.scheduler.open(SessionId(name), [ord(name)] * tokens, ONE, final_s, final=True)
    return ranked(driver.scheduler, "s2l")


def test_short_work_overtakes_long_work_but_only_by_so_much() -> None:
    ahead_s = STRETCH * 0.1 * (20 - 2)  # how much sooner 2 tokens are due than 20 that came at the same time
    assert due_order(("a", 0.0, 20), ("b", ahead_s - 0.1, 2)) == ["b", "a"]
    assert due_order(("a", 0.0, 20), ("b", ahead_s + 0.1, 2)) == ["a", "b"]


def test_a_deadline_that_can_be_met_comes_first_and_a_hopeless_one_counts_for_nothing() -> None:
    driver = Driver(make(max_sessions=8, num_blocks=64))
    for name, deadline_s in (("a", None), ("b", 12.0), ("c", 10.5)):  # each takes 2 s
        driver.scheduler.open(SessionId(name), [ord(name)] * 20, ONE, 9.0, final=True, deadline_s=deadline_s)
    assert ranked(driver.scheduler, "s2l") == ["b", "a", "c"]


def test_priorities_are_strict_among_complete_sessions() -> None:
    driver = Driver(make(max_sessions=8, num_blocks=64))
    driver.scheduler.open(SessionId("a"), [1] * 2, ONE, 0.0, final=True)
    driver.scheduler.open(SessionId("b"), [2] * 30, ONE, 5.0, final=True, priority=1)
    driver.scheduler.open(SessionId("c"), [3] * 2, ONE, 0.0, priority=2)
    assert ranked(driver.scheduler, "s2l") == ["b", "a", "c"]


def test_a_tenant_that_had_more_than_its_share_is_due_later() -> None:
    driver = Driver(make(max_sessions=8, num_blocks=64, token_budget=16))
    for index in range(4):
        driver.scheduler.open(SessionId(f"greedy-{index}"), [index] * 40, ONE, 0.0, final=True, tenant="greedy")
    driver.scheduler.open(SessionId("modest"), [9] * 40, ONE, 0.02, final=True, tenant="modest")
    while "modest" in driver.scheduler._roster:
        driver.step(1.0)
    finished = [output.session_id for output in driver.outputs]
    assert finished.index(SessionId("modest")) < 3  # by due time alone it would have been the last of five


def test_usage_is_compared_between_those_who_have_sessions_and_forgotten_with_time() -> None:
    usage = TenantUsage()
    usage.join("a")
    usage.charge("a", 4.0)
    usage.pass_time(0.0)
    assert not usage.excess_s  # alone
    usage.join("b")
    usage.pass_time(0.0)
    assert usage.excess_s == {"a": 2.0}
    usage.pass_time(10.0)
    assert usage.excess_s == {"a": pytest.approx(1.0)}
    usage.leave("b")
    usage.pass_time(10.0)
    assert not usage.excess_s


def test_streams_get_no_tokens_while_complete_sessions_want_them() -> None:
    driver = Driver(make(token_budget=8))
    driver.scheduler.open(SessionId("stream"), range(100, 108), ONE, 0.0)
    driver.scheduler.open(SessionId("prompt"), range(30), ONE, 1.0, final=True)
    served = [{chunk.session_id for chunk in plan.chunks} for plan in driver.drain()]
    assert served == [{"prompt"}] * 4 + [{"stream"}]


def test_steps_for_streams_are_short_and_steps_beside_decodes_are_bounded() -> None:
    costs = PhysicalCosts(step_s=0.005, token_s=0.001, attended_s=0, decode_s=0.002, decode_context_s=0)
    config = make(
        num_blocks=64, token_budget=64, max_model_len=128, partial_step_s=0.03, decode_gap_s=0.05, min_chunk_tokens=1
    ).config
    driver = Driver(Scheduler(config, costs))
    driver.scheduler.open(SessionId("a"), range(100), ONE, 0.0)
    plan = driver.step()
    assert plan is not None and plan.tokens == 25 and costs.step(plan.shape) == pytest.approx(0.03)
    driver.scheduler.open(SessionId("b"), [1, 2], SamplingParams(max_tokens=8, ignore_eos=True), 0.0, final=True)
    driver.step()
    driver.scheduler.finish(SessionId("a"), 0.0)
    plan = driver.step()
    assert plan is not None and plan.shape.decodes == 1 and plan.shape.prefill_tokens == 43
    assert costs.step(plan.shape) == pytest.approx(0.05)


def test_nobody_is_started_whom_the_pool_could_not_hold() -> None:
    driver = Driver(make(num_blocks=16, token_budget=40))
    driver.scheduler.open(SessionId("a"), range(30), ONE, 0.0, final=True)
    driver.scheduler.open(SessionId("b"), range(100, 160), ONE, 0.0, final=True)
    assert [{chunk.session_id for chunk in plan.chunks} for plan in driver.drain()] == [{"a"}, {"b"}, {"b"}]
    assert driver.scheduler.stats().preemptions.recompute == 0


def test_an_unknown_policy_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match=r"'best', but must be one of s2l, default_vllm"):
        find_policy("best", COSTS, TenantUsage())
    assert set(POLICIES) == {"s2l", "default_vllm", "fcfs", "lcas", "mcps"}
