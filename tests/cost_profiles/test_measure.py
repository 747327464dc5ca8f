import json
from dataclasses import replace

import pytest

from cost_profiles.catalog import find_profile
from cost_profiles.check import compare, random_trials
from cost_profiles.deviation import by_kind, deviations
from cost_profiles.grid import grid
from cost_profiles.profile import PART_TERMS, PARTS, Profile
from cost_profiles.refit import padded_quality, refit
from cost_profiles.served import ServedStep
from cost_profiles.work import Work
from s2l_jax.core.errors import InvalidArgument
from tests.cost_profiles.measured import CONFIG, COPIES, PADDED, PADDING, PaddedMachine, measured_profile

PROFILE = measured_profile()
TERMS = ("chunk_kv_s", "chunk_pair_s", "decode_kv_s", "decode_context_s", "sample_s", "sample_row_s")


def test_measuring_finds_the_machines_costs():
    assert PROFILE.padded.padding == PADDING
    assert PROFILE.padded.dense_s == pytest.approx(PADDED.dense_s, rel=1e-6)
    for name in TERMS:
        assert getattr(PROFILE.padded, name) == pytest.approx(getattr(PADDED, name), rel=1e-6), name
    for name in PART_TERMS["swap_out"] + PART_TERMS["swap_in"]:
        assert getattr(PROFILE.costs, name) == pytest.approx(getattr(COPIES, name), rel=1e-6), name
    # A hand-off on one host is both copies, one after the other.
    assert PROFILE.costs.handoff(10) == pytest.approx(COPIES.swap_out(10) + COPIES.swap_in(10))


def test_a_profile_says_how_it_came_about():
    assert {part.provenance for part in PROFILE.parts.values()} == {"measured"}
    assert "host" in PROFILE.parts["handoff"].source
    assert all(PROFILE.parts[name].r_squared > 0.5 for name in PARTS)
    assert PROFILE.parts["swap_in"].worst_error < 1e-6
    assert PROFILE.conditions["trials"] == len(grid(CONFIG)) > len(PROFILE.steps) + len(PROFILE.copies)
    assert PROFILE.conditions["runs"] >= 2 * PROFILE.conditions["trials"]
    assert (PROFILE.conditions["foreign_cores_max"], PROFILE.conditions["runs_disturbed"]) == (0.0, 0)
    assert PROFILE.latency_s == 0.001
    assert Profile.from_json(json.loads(json.dumps(PROFILE.to_json()))) == PROFILE


def test_it_finds_whether_copies_run_beside_the_computation():
    assert PROFILE.exposed_copies == pytest.approx(1.0)
    assert measured_profile(exposed=0.0).exposed_copies == pytest.approx(0.0, abs=1e-9)
    assert measured_profile(exposed=0.25).exposed_copies == pytest.approx(0.25)


def test_without_a_host_pool_copies_are_not_measured_and_it_says_so():
    profile = measured_profile(replace(CONFIG, host_blocks=0))
    assert profile.copies == ()
    assert profile.costs.swap_out(5) == profile.costs.handoff(5) == profile.exposed_copies == 0.0
    assert "not measured" in profile.parts["swap_out"].source


def test_fitting_anew_changes_nothing_that_was_fitted():
    spoilt = replace(
        PROFILE,
        costs=replace(PROFILE.costs, token_s=1.0, swap_in_s=7.0),
        padded=replace(PROFILE.padded, dense_s=(1.0,) * len(PADDING.token_buckets)),
    )
    assert refit(spoilt) == PROFILE


def test_terms_that_no_point_tells_anything_of_stay():
    base = find_profile("a40-llama3.1-8b")
    prefills = tuple(point for point in PROFILE.steps if point.work.kind == "prefill")
    fitted = refit(replace(base, steps=prefills))
    assert fitted.costs.token_s != base.costs.token_s
    assert fitted.costs.decode_s == base.costs.decode_s
    assert fitted.costs.swap_in_s == base.costs.swap_in_s
    assert fitted.parts["swap_in"] == base.parts["swap_in"]
    assert fitted.padded is None


def test_a_profile_without_points_cannot_be_fitted():
    with pytest.raises(InvalidArgument, match="no points"):
        refit(find_profile("a40-llama3.1-8b"))


def test_sums_of_a_step_do_not_explain_padding():
    """What the padded terms are for: they are exact where sums of a step are far off."""
    errors = {(row.kind, row.model): row for row in by_kind(deviations(PROFILE))}
    for kind in ("prefill", "decode", "mixed"):
        assert errors[kind, "padded"].worst < 1e-6
        assert errors[kind, "sums"].worst > 0.05
    assert ("sample", "sums") not in errors
    assert padded_quality(PROFILE, PROFILE.padded)[0] == pytest.approx(1.0)


def test_a_check_runs_other_steps_than_those_fitted_and_finds_the_machine_slower():
    trials = random_trials(CONFIG, 40, seed=1)
    fitted = {point.work for point in PROFILE.steps}
    assert sum(trial.work in fitted for trial in trials if trial.work) <= 2
    same = by_kind(compare(PROFILE, PaddedMachine().time(trials), 2))
    slow = by_kind(compare(PROFILE, PaddedMachine(slower=1.25).time(trials), 2))
    assert {row.kind for row in same} == {"prefill", "decode", "mixed", "swap_out", "swap_in", "handoff"}
    assert all(row.worst < 1e-6 for row in same if row.model == "padded")
    assert all(row.bias == pytest.approx(-0.2) for row in slow if row.model == "padded")
    assert all(row.worst < 1e-6 for row in slow if row.kind in ("swap_out", "swap_in", "handoff"))


def test_random_trials_repeat_with_their_seed():
    def works(seed):
        return [trial.work for trial in random_trials(CONFIG, 20, seed) if trial.work]

    assert works(1) == works(1) != works(2)
    assert {work.kind for work in works(1)} == {"prefill", "decode", "mixed"}


def test_too_small_an_engine_cannot_be_checked():
    with pytest.raises(InvalidArgument, match="fewer than 4"):
        random_trials(replace(CONFIG, max_batch=2), 5, 0)


def test_errors_name_the_work_that_is_worst():
    worst = Work(decodes=(500,), samples=1)
    odd = [
        replace(point, seconds=3 * point.seconds) if point.work.decodes == worst.decodes else point
        for point in PROFILE.steps
        if point.work.decodes in ((500,), (64,))
    ]
    rows = by_kind(deviations(replace(PROFILE, steps=tuple(odd), copies=())))
    for row in rows:
        assert row.worst_of.startswith("1 decodes behind")


def test_steps_that_a_server_ran_tell_how_much_longer_they_take_there():
    works = [Work(chunks=((32, 64),)), Work(decodes=(100, 200))]
    served = [ServedStep(work.plan(CONFIG), 1.2 * PADDED.step(work), 0.0) for work in works]
    profile = measured_profile(served=served)
    assert profile.serving_slowdown == pytest.approx(1.2)
    assert profile.step_s(served[0].plan) == pytest.approx(served[0].seconds)
    assert (profile.padded, profile.costs) == (PROFILE.padded, PROFILE.costs)  # what the engine does alone
    assert PROFILE.serving_slowdown == 1.0
    with pytest.raises(InvalidArgument, match="serving_slowdown"):
        replace(PROFILE, serving_slowdown=0.0)


def test_steps_after_an_idle_device_are_told_apart():
    work = Work(chunks=((32, 64),))
    alone_s, plan = PADDED.step(work), work.plan(CONFIG)
    served = [ServedStep(plan, 1.1 * alone_s, 0.01), ServedStep(plan, 1.1 * 1.3 * alone_s, 0.2)]
    profile = measured_profile(served=served)
    assert (profile.serving_slowdown, profile.idle_slowdown) == pytest.approx((1.1, 1.3))
    assert profile.step_s(plan, 0.01) == pytest.approx(served[0].seconds)
    assert profile.step_s(plan, 0.2) == pytest.approx(served[1].seconds)
    assert PROFILE.idle_slowdown == 1.0
    with pytest.raises(InvalidArgument, match="idle_slowdown"):
        replace(PROFILE, idle_slowdown=-1.0)
