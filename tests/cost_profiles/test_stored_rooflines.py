from dataclasses import replace

import pytest

from cost_profiles.catalog import find_profile, stored_names
from cost_profiles.measurement import CopyPoint
from cost_profiles.profile import Part, Residual
from cost_profiles.stored_rooflines import STORED_ROOFLINES, renewed


@pytest.mark.parametrize("name", STORED_ROOFLINES)
def test_stored_rooflines_are_what_the_code_gives(name):
    """If this fails, run `s2l profile roofline --all --out cost_profiles/stored`."""
    stored = find_profile(name)
    assert renewed(stored, STORED_ROOFLINES[name].profile()) == stored


def provenances(name):
    return {part.provenance for part in find_profile(name).parts.values()}


def test_the_promised_profiles_are_there_and_nothing_is_a_roofline_that_the_code_does_not_make():
    slices = [f"{name}-llama3.1-{size}" for name in ("v5e-8", "v5p-8", "v6e-8", "v7x-2") for size in ("8b", "70b")]
    promised = {"h200-tp2-llama3.1-8b", "h100-tp2-llama3.1-8b", "a40-llama3.1-8b", *slices}
    assert set(STORED_ROOFLINES) == promised
    made = {name for name in stored_names() if provenances(name) == {"roofline"}}
    assert made <= promised <= set(stored_names())


def test_renewing_keeps_what_is_better_than_a_roofline():
    fresh = STORED_ROOFLINES["h200-tp2-llama3.1-8b"].profile()
    residual = Residual("P50", 0.1, 0.11)
    outdated = replace(
        fresh,
        max_model_len=7,
        costs=replace(fresh.costs, step_s=1.0, swap_out_s=2.0, swap_in_s=3.0),
        latency_s=0.5,
        parts={**fresh.parts, "steps": Part("calibrated", "by hand"), "swap_in": Part("measured", "here")},
        copies=(CopyPoint("swap_in", 1, 3.0), CopyPoint("swap_out", 1, 2.0)),
        residuals=(residual,),
    )
    profile = renewed(outdated, fresh)
    assert (profile.costs.step_s, profile.costs.swap_out_s, profile.costs.swap_in_s) == (
        1.0,
        fresh.costs.swap_out_s,
        3.0,
    )
    assert (profile.latency_s, profile.residuals, profile.max_model_len) == (0.5, (residual,), fresh.max_model_len)
    assert profile.copies == (CopyPoint("swap_in", 1, 3.0),)
    assert [part.provenance for part in profile.parts.values()] == ["calibrated", "roofline", "measured", "roofline"]

    rooflines_only = renewed(replace(outdated, parts=fresh.parts), fresh)
    assert rooflines_only == fresh
