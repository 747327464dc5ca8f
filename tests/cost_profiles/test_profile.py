import json
from dataclasses import replace

import pytest

from cost_profiles.catalog import find_profile
from cost_profiles.measurement import CopyPoint, StepPoint
from cost_profiles.padding import PaddedCosts, Padding
from cost_profiles.profile import PART_TERMS, Part, Profile, ProfileMemory, Residual
from cost_profiles.work import Work
from s2l_jax.core.costs import PhysicalCosts, StepShape
from s2l_jax.core.errors import InvalidArgument

ROOFLINE = find_profile("a40-llama3.1-8b")
# Every field says something.
FULL = replace(
    ROOFLINE,
    latency_s=0.004,
    parts={**ROOFLINE.parts, "steps": Part("calibrated", "a paper", 0.99, 0.2)},
    steps=(
        StepPoint(StepShape(16, 128.0), 0.03),
        StepPoint(StepShape(2, 2.0, 1, 9), 0.04, Work(((2, 0),), (9,), 1)),
    ),
    copies=(CopyPoint("swap_out", 4, 0.002), CopyPoint("handoff", 4, 0.001)),
    residuals=(Residual("P50", 0.1, 0.125),),
    padded=PaddedCosts(Padding((16, 64), 4, 8, 16, 2, 32, 8, 16), (0.01, 0.02), 1e-6, 2e-6, 3e-6, 4e-6, 1e-3, 1e-5),
    conditions={"measured_at": "2026-11-25", "repeats": 3},
)


def through_json(value):
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("profile", [ROOFLINE, FULL])
def test_json_gives_back_the_same_profile(profile):
    assert Profile.from_json(through_json(profile.to_json())) == profile


def test_what_says_nothing_may_be_left_out():
    value = through_json(ROOFLINE.to_json())
    for name in ("latency_s", "steps", "copies", "residuals", "padded", "conditions"):
        del value[name]
    for part in value["parts"].values():
        del part["r_squared"], part["worst_error"]
    assert Profile.from_json(value) == ROOFLINE


@pytest.mark.parametrize(
    ("path", "wrong", "message"),
    [
        ("s2l_profile", 2, '"s2l_profile": 3'),
        ("name", 3, "name is 3, but must be text"),
        ("speed", 3, "speed is not known; known are name, model"),
        ("devices", 0, "devices is 0, but must be at least 1"),
        ("devices", 1.5, r"devices is 1\.5, but must be a whole number"),
        ("devices", True, "devices is True"),
        ("latency_s", -1, "latency_s is -1"),
        ("memory", [], r"memory is \[\], but must be an object"),
        ("memory.device_bytes", "48 GB", r"memory\.device_bytes is '48 GB', but must be a whole number"),
        ("memory.block_bytes", 0, "memory: block_bytes is 0, but must be at least 1"),
        ("memory.weights_bytes", -1, "memory: weights_bytes is -1, but must be at least 0"),
        ("costs.step_s", None, r"costs\.step_s is None, but must be a number"),
        ("costs.step_s", float("nan"), r"costs\.step_s is nan"),
        ("costs.step_s", -1.0, r"costs: step_s is -1\.0"),
        ("costs.warp_s", 1.0, r"costs\.warp_s is not known; known are step_s"),
        ("parts.steps.provenance", "guessed", r"parts\.steps\.provenance is 'guessed'.*measured, imported, roofline"),
        ("parts.steps.r_squared", "high", r"parts\.steps\.r_squared is 'high'"),
        ("parts.swaps", {"provenance": "roofline", "source": ""}, "parts are .*swaps, but must be steps, swap_out"),
        ("steps.1.shape", [1, 2], r"steps\[1\]\.shape is \[1, 2\], but must be a list of 4"),
        ("steps.1.shape", "long", r"steps\[1\]\.shape is 'long', but must be a list"),
        ("steps.1.seconds", 0, r"steps\[1\]\.seconds is 0, but must be above 0"),
        ("steps.1.work.chunks", [[2, "0"]], r"steps\[1\]\.work\.chunks\[0\]\[1\] is '0'"),
        ("steps.1.work.chunks", [[1, 0]], r"steps\[1\]\.work: chunks are"),
        ("copies.0.kind", "sideways", r"copies\[0\]\.kind is 'sideways', but must be one of swap_out"),
        ("copies.0.seconds", -1.0, r"copies\[0\]\.seconds is -1\.0"),
        ("residuals.0.expected_s", 0.0, r"residuals\[0\]\.expected_s is 0\.0"),
        ("padded.padding.token_buckets", 16, r"padded\.padding\.token_buckets is 16, but must be a list"),
        ("padded.dense_s", [0.2, 0.1], "padded: dense_s are"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_by_the_fields_name(path, wrong, message):
    value = through_json(FULL.to_json())
    *parents, last = (int(key) if key.isdecimal() else key for key in path.split("."))
    where = value
    for key in parents:
        where = where[key]
    where[last] = wrong
    with pytest.raises(InvalidArgument, match=message):
        Profile.from_json(value)


@pytest.mark.parametrize("path", ["name", "memory.block_tokens", "costs.handoff_s", "parts.swap_in.source"])
def test_what_is_missing_is_said_by_its_name(path):
    """Also where code has a default: terms of this project's CPU are none of other hardware."""
    value = through_json(FULL.to_json())
    *parents, last = path.split(".")
    where = value
    for key in parents:
        where = where[key]
    del where[last]
    with pytest.raises(InvalidArgument, match=rf"^{path} is missing$"):
        Profile.from_json(value)


@pytest.mark.parametrize("value", [None, [], "profile", {}])
def test_what_is_no_profile_at_all_is_refused(value):
    with pytest.raises(InvalidArgument, match="expected a profile"):
        Profile.from_json(value)


def test_parts_have_every_term_of_the_costs_once():
    terms = [term for some in PART_TERMS.values() for term in some]
    assert sorted(terms) == sorted(PhysicalCosts.__slots__)


def test_pools_are_what_the_weights_leave():
    memory = ProfileMemory(device_bytes=1000, host_bytes=95, weights_bytes=200, block_bytes=10, block_tokens=16)
    assert memory.pool_blocks(1.0) == 80
    assert memory.pool_blocks(0.5) == 40
    assert memory.pool_blocks(0.0126) == 1
    with pytest.raises(InvalidArgument, match="take more devices"):
        memory.pool_blocks(0.0124)
    with pytest.raises(InvalidArgument, match="leave no room"):
        replace(memory, weights_bytes=1001).pool_blocks(0.8)
    for share in (0.0, 1.1, -0.5):
        with pytest.raises(InvalidArgument, match="above 0 and at most 1"):
            memory.pool_blocks(share)
    assert memory.host_blocks() == 9
    assert memory.host_blocks(29) == 2
    assert memory.host_blocks(0) == 0


def test_a_residual_above_0_is_too_slow():
    assert Residual("P50", 0.1, 0.125).relative_error == pytest.approx(0.25)
    assert Residual("P99", 4.0, 3.0).relative_error == pytest.approx(-0.25)
