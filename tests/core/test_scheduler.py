"""The scheduler's promises one by one, on plans that fit in the head: blocks of 4 tokens, steps of 8."""

import pytest

from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from s2l_jax.core.ids import SessionId, SlotId
from s2l_jax.core.outcome import Output
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import SampledToken, StepPlan, StepResult
from s2l_jax.core.scheduler import Scheduler
from s2l_jax.core.session import Session, SessionState
from s2l_jax.core.step_builder import StepBuilder
from tests.fakes import FakeEngine, reference_output

A, B, C = SessionId("a"), SessionId("b"), SessionId("c")
GREEDY = SamplingParams(max_tokens=4, ignore_eos=True)


def make(**changes: object) -> Scheduler:
    values: dict = {
        "num_blocks": 16,
        "block_size": 4,
        "token_budget": 8,
        "max_batch": 4,
        "max_sessions": 4,
        "max_model_len": 64,
        **changes,
    }
    return Scheduler(SchedulerConfig(**values))


class Driver:
    """Runs steps of one scheduler on a fake engine."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        config = scheduler.config
        self.engine = FakeEngine(
            config.num_blocks, config.block_size, config.max_sessions, host_blocks=config.host_blocks
        )
        self.outputs: list[Output] = []

    def step(self, now_s: float = 0.0) -> StepPlan | None:
        plan = self.scheduler.plan(now_s)
        if plan is not None:
            self.outputs += self.scheduler.commit(self.engine.execute(plan), now_s)
            self.scheduler.check_integrity()
        return plan

    def drain(self) -> list[StepPlan]:
        plans = []
        while (plan := self.step()) is not None:
            plans.append(plan)
        return plans

    def tokens(self, session_id: SessionId) -> list[int]:
        return [output.token.token_id for output in self.outputs if output.session_id == session_id]


def test_finish_of_a_computed_context_samples_without_running_a_token() -> None:
    driver = Driver(make())
    driver.scheduler.open(A, range(12), GREEDY, 0.0)
    assert [plan.tokens for plan in driver.drain()] == [8, 4]
    driver.scheduler.finish(A, 1.0)
    plan = driver.step(2.0)
    assert plan is not None and not plan.chunks and len(plan.samples) == 1
    assert driver.outputs[0].stats is None
    driver.drain()
    assert driver.tokens(A) == reference_output(range(12), 4)
    stats = driver.outputs[-1].stats
    assert stats is not None
    assert (stats.ttft_open_s, stats.ttft_final_s, stats.computed_tokens) == (2.0, 1.0, 12)


def test_context_cut_back_to_a_computed_prefix_recomputes_one_token() -> None:
    driver = Driver(make())
    driver.scheduler.open(A, range(12), GREEDY, 0.0)
    driver.drain()
    ack = driver.scheduler.update(A, [], 0.0, keep=7, final=True)
    assert (ack.context_tokens, ack.kept_tokens, ack.invalidated_tokens) == (7, 7, 5)
    assert driver.drain()[0].tokens == 1
    assert driver.tokens(A) == reference_output(range(7), 4)


def test_update_keeps_the_longest_common_prefix_and_releases_the_rest() -> None:
    driver = Driver(make())
    driver.scheduler.open(A, range(16), GREEDY, 0.0)
    driver.drain()
    assert driver.scheduler.stats().held_blocks == 4
    ack = driver.scheduler.update(A, [0, 1, 2, 3, 4, 5, 9], 0.0)
    assert (ack.kept_tokens, ack.invalidated_tokens, ack.context_tokens) == (6, 10, 7)
    stats = driver.scheduler.stats()
    assert (stats.held_blocks, stats.cached_blocks) == (1, 3)  # the second block goes on differently: it is copied
    plan = driver.step()
    assert plan is not None and len(plan.copies) == 1
    assert [(chunk.start, len(chunk.tokens)) for chunk in plan.chunks] == [(6, 1)]


def test_update_while_its_step_is_in_flight() -> None:
    driver = Driver(make())
    driver.scheduler.open(A, range(8), GREEDY, 0.0)
    plan = driver.scheduler.plan(0.0)
    assert plan is not None
    driver.scheduler.update(A, [0, 1, 7], 0.0, final=True)
    driver.scheduler.commit(driver.engine.execute(plan), 0.0)
    driver.drain()
    assert driver.tokens(A) == reference_output([0, 1, 7], 4)


def test_complete_sessions_come_before_partial_ones() -> None:
    driver = Driver(make())
    driver.scheduler.open(A, range(8), GREEDY, 0.0)
    driver.scheduler.open(B, range(10, 16), GREEDY, 1.0, final=True)
    plan = driver.step()
    assert plan is not None
    assert [(chunk.session_id, len(chunk.tokens)) for chunk in plan.chunks] == [(B, 6)]


def test_decodes_take_their_token_before_any_prompt() -> None:
    driver = Driver(make())
    driver.scheduler.open(A, range(20), GREEDY, 0.0, final=True)
    driver.scheduler.open(B, [1], GREEDY, 0.0, final=True)
    driver.step()  # A: 8
    driver.step()  # A: 8
    driver.step()  # A: 4, B: 1; both sample
    driver.scheduler.open(C, range(50, 70), GREEDY, 0.0, final=True)
    plan = driver.step()
    assert plan is not None
    assert {chunk.session_id: len(chunk.tokens) for chunk in plan.chunks} == {A: 1, B: 1, C: 6}


def test_victims_lose_only_the_tail_that_is_needed() -> None:
    driver = Driver(make(num_blocks=8, max_model_len=32))
    driver.scheduler.open(A, range(28), GREEDY, 0.0)  # 7 of 8 blocks
    driver.drain()
    driver.scheduler.open(B, range(50, 58), GREEDY, 0.0, final=True)  # wants 2, 1 is free
    driver.step()
    victim = driver.scheduler.session(A)
    assert (victim.computed, victim.state, victim.preemptions) == (24, SessionState.READY, 1)
    assert driver.scheduler.stats().preemptions.tail == 1


def test_idle_streams_cannot_hold_memory_against_a_complete_session() -> None:
    driver = Driver(make(num_blocks=8, max_model_len=32))
    for session_id in (A, B):
        driver.scheduler.open(session_id, range(16), GREEDY, 0.0)
    driver.drain()
    driver.scheduler.open(C, range(28), GREEDY, 0.0, final=True)
    for _ in range(20):
        driver.step()
    assert driver.tokens(C) == reference_output(range(28), 4)


def test_partial_streams_do_not_evict_each_other_in_a_circle() -> None:
    driver = Driver(make(num_blocks=8, max_model_len=32))
    for session_id in (A, B, C):
        driver.scheduler.open(session_id, range(20), GREEDY, 0.0)
    assert len(driver.drain()) < 12


def test_every_event_is_numbered() -> None:
    scheduler = make()
    assert scheduler.open(A, [1], GREEDY, 0.0).seq == 1
    first = scheduler.append(A, [2], 0.0, seq=2)
    again = scheduler.append(A, [3], 0.0, seq=2)
    assert again.duplicate and again.context_tokens == first.context_tokens == 2
    with pytest.raises(InvalidArgument, match="send 3 first"):
        scheduler.append(A, [3], 0.0, seq=4)
    scheduler.finish(A, 0.0, seq=3)
    assert scheduler.append(A, [3], 0.0, seq=1).duplicate


def test_rejected_events_change_nothing() -> None:
    scheduler = make(max_model_len=16)
    scheduler.open(A, [1], GREEDY, 0.0)
    with pytest.raises(InvalidArgument, match="exceed the limit of 16"):
        scheduler.append(A, range(12), 0.0)
    with pytest.raises(InvalidArgument, match="keeps 2 tokens of a context of 1"):
        scheduler.update(A, [], 0.0, keep=2)
    with pytest.raises(InvalidArgument, match="nothing to generate from"):
        scheduler.update(A, [], 0.0, final=True)
    assert scheduler.finish(A, 0.0, seq=2).context_tokens == 1
    with pytest.raises(FailedPrecondition):
        scheduler.append(A, [1], 0.0)
    scheduler.check_integrity()


def test_opening_is_bounded_and_ids_are_unique() -> None:
    scheduler = make(max_sessions=1)
    scheduler.open(A, [1], GREEDY, 0.0)
    with pytest.raises(AlreadyExists):
        scheduler.open(A, [1], GREEDY, 0.0)
    with pytest.raises(ResourceExhausted):
        scheduler.open(B, [1], GREEDY, 0.0)
    scheduler.cancel(A)
    with pytest.raises(NotFound):
        scheduler.cancel(A)
    scheduler.open(B, [1], GREEDY, 0.0)


def test_cancelled_in_flight_and_reopened_under_the_same_id() -> None:
    driver = Driver(make())
    driver.scheduler.open(A, [1, 2, 3], GREEDY, 0.0, final=True)
    plan = driver.scheduler.plan(0.0)
    assert plan is not None
    driver.scheduler.cancel(A)
    driver.scheduler.open(A, [4, 5], GREEDY, 0.0, final=True)
    assert driver.scheduler.commit(driver.engine.execute(plan), 0.0) == []
    driver.drain()
    assert driver.tokens(A) == reference_output([4, 5], 4)


def test_failed_step_ends_the_sessions_it_touched_only() -> None:
    driver = Driver(make())
    driver.scheduler.open(A, range(8), GREEDY, 0.0, final=True)
    driver.scheduler.open(B, range(8), GREEDY, 0.0)
    plan = driver.scheduler.plan(0.0)
    assert plan is not None
    assert driver.scheduler.fail(plan) == [A]
    driver.scheduler.check_integrity()
    driver.scheduler.finish(B, 0.0)
    driver.drain()
    assert driver.tokens(B) == reference_output(range(8), 4)


def test_output_ends_on_stop_tokens_and_eos() -> None:
    expected = reference_output([1, 2], 3)
    for eos, stop in (({expected[1]}, ()), ((), {expected[1]})):
        driver = Driver(make(eos_token_ids=frozenset(eos)))
        params = SamplingParams(max_tokens=3, stop_token_ids=frozenset(stop))
        driver.scheduler.open(A, [1, 2], params, 0.0, final=True)
        driver.drain()
        assert driver.tokens(A) == expected[:2]
        assert driver.outputs[-1].finish_reason == "stop"


def test_logits_that_are_not_finite_end_their_session_only() -> None:
    driver = Driver(make())
    driver.scheduler.open(A, [1, 2], GREEDY, 0.0, final=True)
    driver.scheduler.open(B, [3, 4], GREEDY, 0.0, final=True)
    plan = driver.scheduler.plan(0.0)
    assert plan is not None
    result = driver.engine.execute(plan)
    broken = StepResult(plan, (SampledToken(-1), result.tokens[1]))
    outputs = driver.scheduler.commit(broken, 0.0)
    assert [output.finish_reason for output in outputs] == ["error", None]
    driver.outputs += outputs
    driver.drain()
    assert driver.tokens(B) == reference_output([3, 4], 4)


def test_states_change_by_the_table_only() -> None:
    session = Session(A, SlotId(0), GREEDY, seed=0, arrival=0, now_s=0.0, block_size=4)
    with pytest.raises(RuntimeError, match="not a transition"):
        session.move_to(SessionState.DECODING)


def test_config_says_what_to_change() -> None:
    with pytest.raises(InvalidArgument, match="give more blocks or lower max_model_len"):
        make(num_blocks=4)
    with pytest.raises(InvalidArgument, match="below max_batch"):
        make(token_budget=2)
    with pytest.raises(InvalidArgument, match="one of s2l, default_vllm, fcfs, lcas, mcps"):
        make(policy="best")
    with pytest.raises(InvalidArgument, match="one of auto, recompute, swap"):
        make(preemption="none")
    with pytest.raises(InvalidArgument, match="host_blocks is -1"):
        make(host_blocks=-1)


def test_streams_that_wait_for_memory_do_not_all_look_for_it_in_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(make(num_blocks=16, max_sessions=40))
    for number in range(40):
        driver.scheduler.open(SessionId(f"s{number}"), [number, *range(11)], GREEDY, float(number))
    driver.drain()
    looked = []
    run = StepBuilder._run
    monkeypatch.setattr(StepBuilder, "_run", lambda self, session: looked.append(session.id) or run(self, session))
    assert driver.step() is None
    assert 0 < len(looked) <= 4
    driver.scheduler.finish(SessionId("s39"), 99.0)
    driver.drain()
    assert driver.tokens(SessionId("s39")) == reference_output([39, *range(11)], 4)
