import json

import pytest

from cost_profiles.artifact import import_latencies
from cost_profiles.catalog import find_profile, parse_profile
from cost_profiles.measurement import CopyPoint
from s2l_jax.core.errors import InvalidArgument

BASE = find_profile("h200-tp2-llama3.1-8b")
METADATA = {
    "model_name": "meta-llama/Llama-3.1-8B",
    "tensor_parallel_size": 2,
    "max_num_batched_tokens": 131072,
    "gpu_memory_utilization": 0.8,
}
COUNTS = [16 << power for power in range(12)]


def prefill_s(tokens):
    return 0.02 + 3e-5 * tokens + 2e-9 * tokens**2 / 2


def recomputation(metadata=METADATA, counts=COUNTS):
    """As the artifact writes it; of five repeats one is far off, so that a mean would not do."""
    repeats = {str(count): [1e3 * prefill_s(count)] * 4 + [1e6] for count in counts}
    return {"recomputation_latencies": repeats, "metadata": metadata}


def swap(metadata=METADATA):
    blocks = {count: count // 16 for count in COUNTS}
    return {
        "swap_in_latency": {str(count): [1e3 * (3e-3 + 2e-5 * blocks[count])] * 10 for count in COUNTS},
        "swap_out_latency": {str(count): [1e3 * (4e-3 + 5e-5 * blocks[count])] * 10 for count in COUNTS},
        "metadata": metadata,
    }


@pytest.fixture
def write(tmp_path):
    def written(value, name="latencies.json"):
        path = tmp_path / name
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    return written


def test_both_files_give_back_the_terms_they_were_made_from(write):
    files = write(recomputation(), "recomputation.json"), write(swap(), "swap.json")
    profile = import_latencies(BASE, *files, "imported")
    costs = profile.costs
    assert (costs.step_s, costs.token_s, costs.attended_s) == pytest.approx((0.02, 3e-5, 2e-9))
    assert (costs.swap_in_s, costs.swap_in_block_s) == pytest.approx((3e-3, 2e-5))
    assert (costs.swap_out_s, costs.swap_out_block_s) == pytest.approx((4e-3, 5e-5))
    for name in ("steps", "swap_out", "swap_in"):
        part = profile.parts[name]
        assert part.provenance == "imported"
        assert part.r_squared == pytest.approx(1.0)
        assert part.worst_error < 1e-6
        assert "Llama-3.1-8B" in part.source
    assert [(step.shape.prefill_tokens, step.seconds) for step in profile.steps] == [
        (count, pytest.approx(prefill_s(count))) for count in COUNTS
    ]
    assert CopyPoint("swap_out", 4, pytest.approx(4.2e-3)) in profile.copies
    assert profile.name == "imported"
    assert parse_profile(json.dumps(profile.to_json()), "again") == profile


def test_what_the_files_do_not_say_stays_the_bases(write):
    steps_only = import_latencies(BASE, write(recomputation()), None, "steps")
    assert (steps_only.memory, steps_only.max_model_len, steps_only.hardware) == (
        BASE.memory,
        BASE.max_model_len,
        BASE.hardware,
    )
    for name in ("swap_out", "swap_in", "handoff"):
        assert steps_only.parts[name] == BASE.parts[name]
    for term in ("decode_s", "decode_context_s", "swap_in_block_s", "handoff_block_s"):
        assert getattr(steps_only.costs, term) == getattr(BASE.costs, term)
    assert BASE.parts["steps"].provenance in steps_only.parts["steps"].source
    assert "decode_s, decode_context_s as before" in steps_only.parts["steps"].source

    swaps_only = import_latencies(BASE, None, write(swap()), "swaps")
    assert swaps_only.parts["steps"] == BASE.parts["steps"]
    assert swaps_only.costs.token_s == BASE.costs.token_s


def test_importing_swaps_again_replaces_the_points(write):
    once = import_latencies(BASE, None, write(swap()), "once")
    assert import_latencies(once, None, write(swap()), "once") == once


def test_requests_longer_than_a_step_are_left_out(write):
    value = recomputation({**METADATA, "max_num_batched_tokens": 2048})
    for tokens in ("4096", "32768"):
        value["recomputation_latencies"][tokens] = [1.0]  # only the first step was timed
    profile = import_latencies(BASE, write(value), None, "short")
    assert max(step.shape.prefill_tokens for step in profile.steps) == 2048
    assert profile.costs.attended_s == pytest.approx(2e-9)
    assert "longer than 2048 tokens left out" in profile.parts["steps"].source


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", r"latencies\.json: .*expected JSON with recomputation_latencies"),
        ([1], "expected an object with recomputation_latencies"),
        ({}, "recomputation_latencies: expected an object of token counts.*found nothing"),
        ({"recomputation_latencies": [1]}, r"found \[1\]"),
        ({"recomputation_latencies": {"many": [1]}}, "found the count 'many'"),
        ({"recomputation_latencies": {"0": [1]}}, "found the count '0'"),
        ({"recomputation_latencies": {"16": []}}, r"16: expected.*found \[\]"),
        ({"recomputation_latencies": {"16": [1, "2"]}}, "16: expected.*milliseconds"),
        ({"recomputation_latencies": {"16": [1, -2]}}, "above 0"),
        ({"recomputation_latencies": {"16": 3.0}}, r"found 3\.0"),
        (recomputation(counts=[16, 32]), "2 different token counts, but 3 terms"),
        (recomputation({**METADATA, "max_num_batched_tokens": 32}), "up to max_num_batched_tokens = 32"),
        (recomputation({**METADATA, "tensor_parallel_size": 4}), "is 4, but the base has 2 devices"),
        (recomputation("none"), "metadata: expected an object"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(write, value, message):
    with pytest.raises(InvalidArgument, match=message):
        import_latencies(BASE, write(value), None, "bad")


def test_what_is_wrong_with_a_swap_file_is_said(write):
    with pytest.raises(InvalidArgument, match=r"swap_in_latency: expected.*found nothing"):
        import_latencies(BASE, None, write({**swap(), "swap_in_latency": None}), "bad")
    short = {**swap(), "swap_out_latency": {"1": [1.0], "16": [1.0]}}  # both are one block
    with pytest.raises(InvalidArgument, match="1 different token counts in blocks of 16"):
        import_latencies(BASE, None, write(short), "bad")
    with pytest.raises(InvalidArgument, match="nothing to import"):
        import_latencies(BASE, None, None, "bad")
