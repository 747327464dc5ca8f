from dataclasses import replace

import pytest

from cost_profiles.catalog import find_profile, write_profile
from s2l_jax.core.errors import InvalidArgument
from tests.cost_profiles.commands.test_profile import run
from tests.cost_profiles.measured import measured_profile


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.json"
    write_profile(path, measured_profile())
    return path


def test_fit_prints_terms_and_errors_of_each_kind_and_draws_them(file, tmp_path):
    png = tmp_path / "new" / "errors.png"
    text = run("fit", file, "--png", png)
    for word in ("step_s", "swap_in_block_s", "step of 64 rows", "chunk_pair_s", "R² 1.0000"):
        assert word in text
    for kind in ("prefill", "decode", "mixed", "sample", "swap_out", "swap_in", "handoff"):
        assert any(line.split()[:1] == [kind] for line in text.splitlines()), kind
    assert png.read_bytes().startswith(b"\x89PNG")


def test_fit_writes_what_it_fitted(file, tmp_path):
    spoilt = find_profile(str(file))
    write_profile(file, replace(spoilt, costs=replace(spoilt.costs, swap_in_s=7.0)))
    out = tmp_path / "again.json"
    assert "points of steps" in run("fit", file, "--out", out)
    assert find_profile(str(out)).costs == spoilt.costs


def test_a_roofline_cannot_be_fitted():
    with pytest.raises(InvalidArgument, match="was not measured"):
        run("fit", "a40-llama3.1-8b")
