from dataclasses import replace

import pytest

from cost_profiles.catalog import find_profile
from cost_profiles.comparison import Stretch, compare, crossovers, describe
from s2l_jax.core.costs import PhysicalCosts
from s2l_jax.core.errors import InvalidArgument

H200 = find_profile("h200-tp2-llama3.1-8b")


def profile(max_model_len=4096, **costs):
    terms = {"step_s": 0.0, "token_s": 1e-3, "attended_s": 0.0, "swap_out_s": 0.0, "swap_in_s": 0.0}
    return replace(H200, max_model_len=max_model_len, costs=PhysicalCosts(**{**terms, **costs}))


def test_rows_are_what_the_costs_say():
    found = compare(H200, context=1000)
    assert [row.tokens for row in found.rows[:3]] == [16, 32, 64]
    longest = found.rows[-1]
    assert longest.tokens == (H200.max_model_len - 1000) // 16 * 16
    assert longest.recompute_s == H200.costs.recompute(longest.tokens, 1000)
    assert longest.shared_s == pytest.approx(longest.recompute_s - H200.costs.step_s)
    assert longest.swap_s == H200.costs.swap_out(longest.tokens // 16) + H200.costs.swap_in(longest.tokens // 16)


def test_the_crossover_is_where_the_lines_cross():
    # Recomputing takes 1 ms a token; swapping 0.5 s, and 8 ms a block of 16 tokens: equal at 1000 tokens.
    found = compare(profile(swap_out_s=0.3, swap_in_s=0.2, swap_out_block_s=5e-3, swap_in_block_s=3e-3))
    assert found.own == (Stretch("recompute", 16, 992), Stretch("swap", 1008, 4096))
    assert crossovers(found.own) == [1008]
    assert describe(found.own) == "recompute below 1,008 tokens, swap from there on"


def test_context_makes_recomputing_dearer_so_swaps_win_sooner():
    costs = {"attended_s": 1e-6, "swap_out_s": 0.5, "swap_out_block_s": 5e-3, "swap_in_block_s": 3e-3}
    near, far = (crossovers(compare(profile(**costs), context).own)[0] for context in (0, 2000))
    assert far < near


def test_a_step_of_its_own_may_decide_for_swaps_twice():
    # The step makes swaps cheaper for few tokens, attention for many; between them recomputing is.
    costs = {"step_s": 0.1, "attended_s": 1e-6, "swap_out_block_s": 0.02, "swap_in_block_s": 0.01}
    found = compare(profile(**costs))
    assert [stretch.cheaper for stretch in found.own] == ["swap", "recompute", "swap"]
    assert [stretch.cheaper for stretch in found.shared] == ["recompute", "swap"]
    first, second = crossovers(found.own)
    assert describe(found.own) == (
        f"swap below {first:,} tokens, recompute from there to {second:,}, swap from there on"
    )


def test_one_way_may_always_be_cheaper():
    assert describe(compare(profile(swap_out_block_s=9.0)).own) == "recompute at every length"


@pytest.mark.parametrize("context", [-1, 4081])
def test_a_context_that_leaves_no_room_is_an_error(context):
    with pytest.raises(InvalidArgument, match="from 0 to 4080"):
        compare(profile(), context)
