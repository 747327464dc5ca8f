from dataclasses import replace

import pytest

from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.costs import PhysicalCosts
from s2l_jax.core.errors import InternalError, InvalidArgument
from s2l_jax.core.scheduler import Scheduler
from workloads.generate.crawler import CrawlerConfig, crawler_trace
from workloads.replay.schedule import peak_context_tokens, plan_sessions
from workloads.replay.simulated_engine import Lead
from workloads.replay.simulation import Server, simulate
from workloads.trace import Event, Session

# A step takes 1 s, a prefilled token 0.1 s, a decoded one 0.5 s: sums that can be done by hand.
COSTS = PhysicalCosts(1.0, 0.1, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0)
CONFIG = SchedulerConfig(
    num_blocks=64, block_size=4, token_budget=32, max_batch=8, max_sessions=8, max_model_len=64, policy="fcfs"
)

AT_THE_END = Lead(share=0.0)


def session(name, *pieces, max_tokens=1):
    """A session from `(t_s, n_tokens)`: the first opens it, the last completes it."""
    (first_s, first), *rest = pieces
    events = [Event(first_s, name, "open", n_tokens=first, max_tokens=max_tokens)]
    events += [Event(at_s, name, "append", n_tokens=tokens) for at_s, tokens in rest]
    return Session(name, (*events, Event(events[-1].t_s, name, "finish")))


def run(*sessions, mode="stream", lead=AT_THE_END, config=CONFIG, **server):
    scheduler = Scheduler(config)
    result = simulate(plan_sessions(sessions, mode, None, 0, 100), Server(scheduler, COSTS, lead=lead, **server))
    scheduler.check_integrity()
    return result


def ttft_final_s(result):
    return [row.ttft_final_s for row in result.measured.sessions]


def test_waiting_computes_everything_at_the_end_and_streaming_the_rest():
    one = session("a", (0.0, 10), (5.0, 5))
    streamed, waited = run(one), run(one, mode="wait")
    assert ttft_final_s(streamed) == pytest.approx([1.5])
    assert ttft_final_s(waited) == pytest.approx([2.5])
    assert [row.ttft_open_s for row in streamed.measured.sessions] == pytest.approx([6.5])
    assert (streamed.busy_s, waited.busy_s) == pytest.approx((3.5, 2.5))
    assert (streamed.counters.steps, waited.counters.steps) == (2, 1)


def test_a_chunk_that_comes_during_a_step_waits_for_its_end():
    result = run(session("a", (0.0, 10), (1.5, 5)))  # the first step ends at 2.0
    assert ttft_final_s(result) == pytest.approx([2.0])


def test_decodes_and_rows():
    result = run(session("a", (0.0, 10), max_tokens=3))
    (row,) = result.measured.sessions
    assert (row.first_token_s, row.done_s, row.tpot_s) == pytest.approx((2.0, 5.0, 1.5))
    assert (row.prompt_tokens, row.computed_tokens, row.output_tokens) == (10, 10, 3)
    assert (row.finish_reason, row.completed, row.preemptions) == ("length", True, 0)
    assert (row.server_ttft_final_s, row.server_ttft_open_s) == pytest.approx((2.0, 2.0))
    kinds = [event.kind for event in result.measured.events]
    assert kinds == ["arrival", "open", "token", "token", "token", "done"]


def test_the_budget_is_shared_and_the_complete_go_first():
    # One step of 32 tokens takes 4.2 s. b is complete, so a (30 tokens, partial) gets the rest.
    result = run(session("a", (0.0, 30), (20.0, 2)), session("b", (0.0, 20)))
    assert ttft_final_s(result) == pytest.approx([1.2, 4.2])
    assert result.counters.steps == 3


def test_eviction_is_simulated_too():
    small = replace(CONFIG, num_blocks=10, max_model_len=40)
    result = run(session("a", (0.0, 30), (20.0, 2)), session("b", (10.0, 30)), config=small)
    rows = {row.session: row for row in result.measured.sessions}
    assert rows["a"].preemptions == 1
    assert rows["a"].computed_tokens > 32
    assert rows["a"].recomputed_tokens == rows["a"].computed_tokens - 32
    assert rows["b"].ttft_final_s == pytest.approx(4.0)


@pytest.mark.parametrize(
    "lead, arrival_s, ttft_s",
    [
        (AT_THE_END, 3.5, 4.9),  # planned at 4.2 s with the rest of the budget for a: done at 8.4 s
        (Lead(0.3, 9.0), 2.9, 5.5),  # just before the second step is planned at 2.94 s: likewise
        (Lead(0.3, 9.0), 3.5, 6.2),  # too late for the second step, whose 32 tokens are a's: done at 8.4 + 1.3 s
        (Lead(0.3, 0.5), 3.5, 4.9),  # planned at 3.7 s
        (Lead(0.3, 0.5), 3.8, 5.9),
    ],
)
def test_a_step_is_planned_while_the_one_before_runs(lead, arrival_s, ttft_s):
    patient = replace(CONFIG, num_blocks=128, max_model_len=256, partial_step_s=100.0)
    result = run(session("a", (0.0, 64), (50.0, 1)), session("b", (arrival_s, 3)), lead=lead, config=patient)
    assert ttft_final_s(result)[1] == pytest.approx(ttft_s)


def test_work_ahead_of_time_is_not_queued_behind_a_step():
    config = replace(CONFIG, policy="s2l", num_blocks=128, max_model_len=256, partial_step_s=100.0)
    # b comes at 3.5 s. The second step of a would have been planned by then, but is work ahead of time, so b is in it.
    result = run(session("a", (0.0, 64), (50.0, 1)), session("b", (3.5, 3)), lead=Lead(0.3, 9.0), config=config)
    assert ttft_final_s(result)[1] == pytest.approx(0.7 + 1.3)
    assert result.steps["engine"][1].start_s == pytest.approx(4.2)


def test_steps_may_be_priced_by_their_plans():
    result = run(session("a", (0.0, 10), (20.0, 5)), step_s=lambda plan, idle_s: 2.0 * len(plan.chunks[0].tokens))
    assert [step.duration_s for step in result.steps["engine"]] == pytest.approx([20.0, 10.0])


def test_a_step_is_priced_by_how_long_the_device_stood_idle_before_it():
    idles_s = []

    def step_s(plan, idle_s):
        idles_s.append(idle_s)
        return 2.0

    run(session("a", (0.0, 10), (0.5, 5), (9.0, 5)), step_s=step_s)
    assert idles_s == pytest.approx([0.0, 0.0, 5.0])


@pytest.mark.parametrize(("exposed", "extra_s"), [(0.0, 0.0), (0.5, 1.0), (1.0, 2.0)])
def test_copies_make_a_step_longer_where_they_do_not_run_beside_it(exposed, extra_s):
    costs = replace(COSTS, swap_out_s=2.0, swap_in_s=2.0)
    config = replace(CONFIG, num_blocks=10, max_model_len=40, host_blocks=20, preemption="swap")
    planned = plan_sessions([session("a", (0.0, 30), (20.0, 2)), session("b", (10.0, 30))], "stream", None, 0, 100)
    result = simulate(planned, Server(Scheduler(config), costs, lead=AT_THE_END, exposed_copies=exposed))
    steps = result.steps["engine"]
    copying = [step for step in steps if step.saved_blocks or step.loaded_blocks]
    assert sum(step.saved_blocks for step in steps) > 0 < sum(step.loaded_blocks for step in steps)
    assert any(step.compute_s > 2.0 for step in copying), "a copy that could be hidden"
    for step in steps:
        copies = bool(step.saved_blocks) + bool(step.loaded_blocks)
        at_least_s = 2.0 if copies else 0.0
        assert step.duration_s == pytest.approx(max(step.compute_s + copies * extra_s, at_least_s))


def test_what_the_scheduler_refuses_is_a_row_with_an_error():
    result = run(session("a", (0.0, 10), (1.0, 60)), session("b", (0.0, 10)))
    a, b = result.measured.sessions
    assert a.error.startswith("INVALID_ARGUMENT: ")
    assert (a.completed, a.first_token_s, b.completed) == (False, None, True)


def test_a_scheduler_that_forgets_a_session_is_found_out():
    class Forgetful(Scheduler):
        def plan(self, now_s):
            return None

    planned = plan_sessions([session("a", (0.0, 10))], "stream", None, 0, 100)
    with pytest.raises(InternalError, match="1 complete sessions wait"):
        simulate(planned, Server(Forgetful(CONFIG), COSTS))


def test_text_is_refused():
    text = Session("a", (Event(0.0, "a", "open", text="hello"), Event(0.0, "a", "finish")))
    with pytest.raises(InvalidArgument, match="text"):
        run(text)


def test_a_simulation_repeats_itself():
    trace = crawler_trace(CrawlerConfig(sessions=20, qps=5.0, token_scale=0.01, max_prompt_tokens=80))
    config = replace(CONFIG, max_sessions=20, max_model_len=128, num_blocks=40)
    first, second = (run(*trace.sessions, config=config) for _ in range(2))
    assert first == second
    assert first.counters.steps > 20


def test_peak_context():
    planned = plan_sessions([session("a", (0.0, 10), (4.0, 5)), session("b", (3.0, 20))], "stream", None, 0, 100)
    assert peak_context_tokens(planned) == 30  # at 3.0: a's first 10 and b's 20
    update = Session(
        "u",
        (
            Event(0.0, "u", "open", n_tokens=10),
            Event(1.0, "u", "update", tokens=(1, 2), keep_tokens=4),
            Event(1.0, "u", "finish"),
        ),
    )
    assert peak_context_tokens(plan_sessions([update], "stream", None, 0, 100)) == 10


def run_apart(*sessions, generate_blocks=64, handoff_s=2.0):
    """A prefill and a generate engine."""
    costs = replace(COSTS, handoff_s=handoff_s, handoff_block_s=0.0)
    first = Scheduler(replace(CONFIG, role="prefill"))
    second = Scheduler(replace(CONFIG, num_blocks=generate_blocks, max_model_len=min(64, 4 * generate_blocks)))
    server = Server(first, costs, second, costs, lead=AT_THE_END)
    result = simulate(plan_sessions(sessions, "stream", None, 0, 100), server)
    for scheduler in (first, second):
        scheduler.check_integrity()
        assert scheduler.held_blocks == 0
    return result


def test_a_second_engine_generates_and_the_first_token_does_not_wait_for_it():
    result = run_apart(session("a", (0.0, 10), max_tokens=3))
    (row,) = result.measured.sessions
    # first token after 1 + 10 * 0.1; then 2 s of hand-off, then two steps of 1.5 s
    assert (row.first_token_s, row.done_s, row.tpot_s) == pytest.approx((2.0, 7.0, 2.5))
    assert [step.start_s for step in result.steps["generate"]] == pytest.approx([4.0, 5.5])
    assert (row.computed_tokens, row.output_tokens, result.counters.steps) == (10, 3, 3)


def test_the_link_carries_one_session_after_the_other():
    result = run_apart(session("a", (0.0, 10), max_tokens=2), session("b", (0.0, 10), max_tokens=2))
    rows = {row.session: row for row in result.measured.sessions}
    assert rows["a"].first_token_s == rows["b"].first_token_s == pytest.approx(3.0)  # one step: 1 + 20 * 0.1
    assert (rows["a"].done_s, rows["b"].done_s) == pytest.approx((6.5, 8.5))


def test_decodes_do_not_slow_prefills_down_in_another_engine():
    sessions = [session("a", (0.0, 10), max_tokens=20), session("b", (8.0, 30))]
    together, apart = run(*sessions), run_apart(*sessions, handoff_s=0.0)
    assert ttft_final_s(apart)[1] == pytest.approx(4.0)  # an idle engine: 1 + 30 * 0.1
    assert ttft_final_s(together)[1] > 4.4


def test_without_room_in_the_second_engine_sessions_wait_in_the_first():
    sessions = [session(f"s{number}", (0.1 * number, 20), max_tokens=12) for number in range(5)]
    tight, wide = run_apart(*sessions, generate_blocks=10), run_apart(*sessions)
    assert ttft_final_s(tight) == ttft_final_s(wide)
    assert max(row.done_s for row in tight.measured.sessions) > max(row.done_s for row in wide.measured.sessions)
    assert all(row.output_tokens == 12 for row in tight.measured.sessions)
