"""Measuring and checking a profile of the real engine with a tiny model."""

import json

import pytest
from click.testing import CliRunner

from cost_profiles import rounds
from cost_profiles.catalog import find_profile
from serving import measuring_load
from serving.commands.profile_check import check_command
from serving.commands.profile_measure import measure_command

ENGINE = ("--model", "tiny-random", "--token-budget", "8", "--max-batch", "4", "--max-model-len", "128")
ENGINE += ("--kv-blocks", "32", "--repeats", "1", "--budget-s", "0")


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setattr(rounds, "WINDOW_S", 0.0)
    monkeypatch.setattr(measuring_load, "LONE_GAP_S", (0.0, 0.02))  # a device that stands idle for less than in truth
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(command, *args):
        result = CliRunner().invoke(command, [str(arg) for arg in args], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result

    return run


def test_measure_and_check(run, tmp_path):
    out, png = tmp_path / "new" / "tiny.json", tmp_path / "errors.png"
    text = run(measure_command, *ENGINE, "--out", out, "--png", png).output
    assert "Timing ..." in text
    assert "points of steps" in text
    profile = find_profile(str(out))
    assert (profile.name, profile.model, profile.max_model_len) == ("tiny", "tiny-random", 128)
    assert {part.provenance for part in profile.parts.values()} == {"measured"}
    assert profile.padded.padding.token_buckets[-1] == 8
    assert {point.work.kind for point in profile.steps} == {"prefill", "decode", "mixed", "sample"}
    assert {point.kind for point in profile.copies} == {"swap_out", "swap_in", "handoff"}
    assert 0 < profile.latency_s < 1
    assert profile.serving_slowdown not in (0.0, 1.0)
    assert 0 < profile.memory.weights_bytes < profile.memory.device_bytes
    assert png.exists()

    checked = run(check_command, out, *ENGINE, "--steps", 6, "--json", "--quiet")
    value = json.loads(checked.stdout)
    assert value["profile"] == "tiny"
    steps = [one for one in value["deviations"] if one["model"] == "padded"]
    assert len(steps) == 6
    assert all(one["measured_s"] > 0 and one["predicted_s"] > 0 for one in value["deviations"])
    assert {row["kind"] for row in value["kinds"]} >= {"swap_out", "swap_in", "handoff"}
