"""Sequences of moves that once went wrong, as short as they could be made."""

from typing import Any

from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.costs import CostModel, PhysicalCosts
from s2l_jax.core.params import SamplingParams
from tests.core.test_law import output_of
from tests.fake_device import FakeDevice
from tests.law_run import Run


def make_run(costs: CostModel | None = None, **changes: Any) -> Run:
    """A run on a pool that just holds the longest context: 12 blocks of 4 tokens."""
    values = {
        "num_blocks": 12,
        "block_size": 4,
        "token_budget": 8,
        "max_batch": 4,
        "max_sessions": 6,
        "max_model_len": 48,
        **changes,
    }
    device = FakeDevice(40, 4, 6, host_blocks=32)
    return Run(SchedulerConfig(**values), device, output_of, costs=costs)


def test_idle_streams_do_not_swap_each_other_out_for_ever() -> None:
    costs = PhysicalCosts(swap_out_s=0, swap_out_block_s=1e-6, swap_in_s=0, swap_in_block_s=1e-6)
    run = make_run(costs, host_blocks=32, preemption="swap", policy="s2l")
    run.open("a", range(12))
    run.open("b", range(100, 140))
    run.drain(idle=["a", "b"])


def test_the_last_free_block_is_not_kept_as_the_source_of_a_copy_that_has_no_target() -> None:
    run = make_run()
    run.open("a", range(45), SamplingParams(max_tokens=3))  # the whole pool, its last block not full
    while run.advance():
        pass
    run.change("a", [])
    run.change("a", range(45), final=True)
    run.drain()
