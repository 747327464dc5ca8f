"""How urgent a session is: priority and deadline, from the client to the scheduler."""

import math
import threading
import time
from contextlib import ExitStack

import pytest

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.core.ids import SessionId
from s2l_jax.core.plan import StepPlan
from serving.client import AsyncClient, Client, SamplingParams, Session
from tests.serving.harness import TIMEOUT_S, Sizes, eventually, run, threaded_world, world

ONE = SamplingParams(max_tokens=1)


@pytest.mark.parametrize(("priority", "served"), [(0, ["early", "late"]), (1, ["late", "early"])])
def test_the_higher_priority_goes_first(priority: int, served: list[str]) -> None:
    is_held, is_released = threading.Event(), threading.Event()
    plans: list[StepPlan] = []

    def hook(plan: StepPlan) -> None:
        plans.append(plan)
        is_held.set()
        assert is_released.wait(TIMEOUT_S)

    with threaded_world(Sizes(hook=hook)) as one, Client(one.target, timeout_s=10) as client, ExitStack() as stack:
        stack.callback(is_released.set)

        def ask(name: str, tokens: int, priority: int = 0) -> Session:
            session = client.session(ONE, content="x" * tokens, session_id=name, final=True, priority=priority)
            stack.enter_context(session)
            next(session.events())
            return session

        sessions = [ask("holder", 1)]
        assert is_held.wait(TIMEOUT_S)
        sessions += [ask("early", 100), ask("late", 100, priority)]
        is_released.set()
        assert all(session.result().finish_reason == "length" for session in sessions)
    # All of a step's tokens go to the first in turn, as long as it can use them.
    after = [chunk.session_id for plan in plans[1:] for chunk in plan.chunks]
    assert list(dict.fromkeys(after)) == served


def test_a_deadline_is_counted_from_open_on_the_servers_clock() -> None:
    async def test() -> None:
        async with world() as one, AsyncClient(one.target) as client:
            before_s = time.monotonic()
            async with client.session(session_id="s", priority=-3, first_token_within_s=5.0) as session:
                await anext(session.events())
                after_s = time.monotonic()
                opened = one.scheduler.session(SessionId("s"))
                assert (opened.tenant, opened.priority) == ("", -3)
                assert before_s + 5 <= opened.deadline_s <= after_s + 5
            async with client.session(session_id="plain") as session:
                await anext(session.events())
                opened = one.scheduler.session(SessionId("plain"))
                assert (opened.priority, opened.deadline_s) == (0, math.inf)
            await eventually(one.is_empty)

    run(test)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"priority": 1001}, "priority is 1001, but must be between -1000 and 1000"),
        ({"priority": -1001}, "priority is -1001, but must be between -1000 and 1000"),
        ({"priority": 1 << 40}, "priority is 1099511627776, but must fit into 32 bits"),
        ({"first_token_within_s": -0.5}, r"first_token_within_s is -0.5, but must be 0 \(no matter when\) or more"),
        ({"first_token_within_s": math.inf}, "first_token_within_s is inf, but .* finite"),
        ({"first_token_within_s": math.nan}, "first_token_within_s is nan, but .* finite"),
    ],
)
def test_bad_values_are_refused(arguments: dict[str, float], message: str) -> None:
    async def test() -> None:
        async with world() as one, AsyncClient(one.target) as client:
            with pytest.raises(InvalidArgument, match=message):
                await client.generate("x", ONE, **arguments)  # type: ignore[arg-type]
            limits = {"priority": 1000, "first_token_within_s": 1e9}
            assert (await client.generate("x", ONE, **limits)).finish_reason == "length"  # type: ignore[arg-type]
            await eventually(one.is_empty)

    run(test)
