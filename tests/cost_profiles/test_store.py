from dataclasses import replace

import pytest

from cost_profiles.fit import fit
from cost_profiles.measurement import CopyPoint, MachineKey, StepPoint
from cost_profiles.store import load_profile, profile_file, save_profile
from s2l_jax.core.costs import StepShape

KEY = MachineKey("org/some model", "cpu 2 cores", "float32", 16, "numpy", "0.1.0")
PROFILE = fit(
    [StepPoint(StepShape(16, 128.0), 0.03), StepPoint(StepShape(64, 2048.0), 0.1)],
    [CopyPoint("swap_out", 4, 0.002), CopyPoint("swap_in", 4, 0.001)],
)


def test_what_is_kept_is_found_again(tmp_path):
    assert load_profile(tmp_path / "new", KEY) is None
    path = save_profile(tmp_path / "new", KEY, PROFILE)
    assert load_profile(tmp_path / "new", KEY) == PROFILE
    assert list((tmp_path / "new").iterdir()) == [path]


@pytest.mark.parametrize(
    "change",
    [{"device": "cpu 4 cores"}, {"dtype": "bfloat16"}, {"block_size": 32}, {"host_memory": ""}, {"version": "2"}],
)
def test_another_machine_has_another_profile(tmp_path, change):
    save_profile(tmp_path, KEY, PROFILE)
    assert load_profile(tmp_path, replace(KEY, **change)) is None


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"key": 1}', '{"s2l_measurement": 99}'])
def test_a_broken_file_means_measuring_again(tmp_path, content):
    profile_file(tmp_path, KEY).write_text(content)
    assert load_profile(tmp_path, KEY) is None
    save_profile(tmp_path, KEY, PROFILE)
    assert load_profile(tmp_path, KEY) == PROFILE


def test_impossible_costs_are_not_believed(tmp_path):
    path = save_profile(tmp_path, KEY, PROFILE)
    path.write_text(path.read_text().replace('"step_s": ', '"step_s": -'))
    assert load_profile(tmp_path, KEY) is None
