"""Nobody starves while ever new work arrives."""

import pytest

from s2l_jax.core.params import SamplingParams
from s2l_jax.core.policy import POLICIES
from tests.core.test_regressions import make_run

ONE = SamplingParams(max_tokens=1, ignore_eos=True)
SHORT_TOKENS, LONG_TOKENS = 6, 44
STEPS = 200


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_a_long_prompt_gets_its_token_under_a_stream_of_short_ones(policy: str, preemption: str) -> None:
    """More short prompts arrive than one step can serve; the long one needs most of the pool, and is not forgotten."""
    run = make_run(policy=policy, preemption=preemption, host_blocks=32)
    run.open("long", range(LONG_TOKENS), ONE, final=True)
    for step in range(STEPS):
        if len(run.streams) < run.config.max_sessions:
            run.open(f"short-{step}", [100 + step % 100] * SHORT_TOKENS, ONE, final=True)
        while not run.landed:
            run.advance()
        run.settle()
        if "long" not in run.streams:
            break
    assert "long" not in run.streams, f"no token after {STEPS} steps"
    run.drain()


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_prompt_gets_its_token_among_streams_that_never_end(policy: str) -> None:
    """Four streams fill the pool, and grow or change after each step."""
    run = make_run(policy=policy, host_blocks=6)
    for name in "abcd":
        run.open(name, [ord(name)] * 30, ONE)
    for step in range(60):
        name = "abcd"[step % 4]
        run.change(name, [ord(name)] * (10 + step % 20) + [step] * 10)
        run.advance()
    run.open("prompt", range(LONG_TOKENS), ONE, final=True)
    for step in range(STEPS):
        name = "abcd"[step % 4]
        run.change(name, [ord(name)] * (10 + step % 20) + [step] * 10)
        while not run.landed:
            run.advance()
        run.settle()
        if "prompt" not in run.streams:
            break
    assert "prompt" not in run.streams, f"no token after {STEPS} steps"
    run.drain(idle="abcd")
