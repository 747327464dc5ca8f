"""The commands as a user runs them, but in this process."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import entry_points

import pytest
from click.testing import CliRunner

from cost_profiles.catalog import find_profile, stored_names, write_profile
from cost_profiles.commands.profile import profile
from cost_profiles.profile import Part, Residual
from cost_profiles.stored_rooflines import STORED_ROOFLINES
from s2l_jax.core.errors import InvalidArgument
from tests.cost_profiles.test_artifact import recomputation, swap

H200 = "h200-tp2-llama3.1-8b"


def run(*args):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(profile, [str(arg) for arg in args])
    if isinstance(result.exception, InvalidArgument):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def imported(tmp_path):
    files = tmp_path / "recomputation.json", tmp_path / "swap.json"
    for file, value in zip(files, (recomputation(), swap()), strict=True):
        file.write_text(json.dumps(value))
    out = tmp_path / "new" / "mine.json"
    text = run("import", "--recomputation", files[0], "--swap", files[1], "--base", H200, "--out", out)
    assert "12 points of steps, 24 of copies" in text
    return out


def test_subcommands_come_from_entry_points_and_load_nothing_heavy():
    names = {entry.name for entry in entry_points(group="s2l.profile_commands")}
    assert {"import", "list", "roofline", "show"} <= names
    program = (
        "import sys; from serving.cli import main\n"
        "try: main(['profile', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('jax', 'numpy', 'rich', 'matplotlib', 'cost_profiles.profile') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True).stdout
    assert out.splitlines()[-1] == "[]"
    for name in names:
        assert any(line.split()[:1] == [name] and len(line.split()) > 2 for line in out.splitlines()), name


def test_list_has_every_stored_profile_with_its_provenance():
    text = run("list")
    assert all(name in text for name in stored_names())
    rows = {row["name"]: row for row in json.loads(run("list", "--json"))}
    assert list(rows) == stored_names()
    assert rows["v5e-8-llama3.1-70b"]["dtype"] == "int8 weights, bfloat16 KV"
    assert rows["a40-llama3.1-8b"]["provenance"]["swap_in"] == "roofline"


@pytest.mark.parametrize("name", stored_names())
def test_every_stored_profile_can_be_shown(name):
    text = run("show", name)
    found = find_profile(name)
    assert found.hardware in text and found.parts["swap_in"].source[:40] in text
    assert f"{found.max_model_len:,}" in text and "recomputing in a step that runs anyway" in text
    blocks = found.memory.pool_blocks(0.8)
    assert f"{blocks:,} blocks on the device ({16 * blocks:,} tokens" in text


def test_show_as_json_is_the_profile_and_the_comparison():
    value = json.loads(run("show", H200, "--context", 4096, "--json"))
    comparison = value.pop("comparison")
    assert value == json.loads(json.dumps(find_profile(H200).to_json()))
    assert comparison["context"] == 4096
    assert comparison["rows"][0]["recompute_s"] == pytest.approx(find_profile(H200).costs.recompute(16, 4096))


def test_show_marks_the_crossover(tmp_path, imported):
    # 20 ms + 30 us a token against 7 ms + 70 us a block: swaps always, but in a shared step only from 256 tokens on.
    text = run("show", imported)
    line = next(line for line in text.splitlines() if "←" in line)
    assert line.split()[0] == "512" and line.rstrip().endswith("swap ← 272 shared")
    assert "recompute below 272 tokens, swap from there on" in text


def test_show_draws_curves_points_and_residuals(tmp_path, imported):
    from cost_profiles.figure import profile_figure

    png = tmp_path / "pictures" / "mine.png"
    assert str(png) in run("show", imported, "--png", png)
    assert png.read_bytes().startswith(b"\x89PNG")
    comparison, errors = profile_figure(find_profile(str(imported))).axes
    drawn = {line.get_label(): len(line.get_xdata()) for line in comparison.lines}
    assert drawn["recompute, measured"] == 12 and drawn["swap out and in, measured"] == 12
    assert {text.get_text() for text in errors.get_legend().get_texts()} == {"prefill", "swap out", "swap in"}
    behind = profile_figure(find_profile(str(imported)), 1000).axes[0]
    assert "recompute, measured" not in {line.get_label() for line in behind.lines}  # they were measured behind nothing

    assert len(profile_figure(find_profile("a40-llama3.1-8b")).axes) == 1  # a roofline has no errors


def test_a_calibrated_profile_shows_what_it_was_fitted_to(tmp_path):
    from cost_profiles.figure import profile_figure

    found = STORED_ROOFLINES[H200].profile()
    residuals = (Residual("QPS 1 P50", 0.1, 0.11), Residual("QPS 4 P99", 4.0, 2.0))
    parts = {**found.parts, "steps": Part("calibrated", "a paper", worst_error=0.5)}
    found = replace(found, latency_s=5e-3, parts=parts, residuals=residuals)
    write_profile(tmp_path / "it.json", found)
    text = run("show", tmp_path / "it.json")
    assert "latency beside the device's work: 5.0 ms" in text
    rows = [line.split() for line in text.splitlines() if line.strip().startswith("QPS")]
    assert rows == [
        ["QPS", "1", "P50", "100", "ms", "110", "ms", "+10%"],
        ["QPS", "4", "P99", "4.00", "s", "2.00", "s", "-50%"],
    ]
    assert next(line for line in text.splitlines() if "calibrated" in line).split()[-3:] == ["calibrated", "–", "50.0%"]
    errors = profile_figure(found).axes[1].lines[0]
    assert errors.get_ydata().tolist() == pytest.approx([0.1, -0.5])


def test_roofline_writes_a_profile_that_can_be_used(tmp_path):
    out = tmp_path / "four.json"
    run("roofline", "--chip", "v6e", "--count", 4, "--model", "llama3.1-70b", "--int8-weights", "--out", out)
    found = find_profile(str(out))
    assert (found.name, found.devices, found.model) == ("four", 4, "Llama-3.1-70B")
    assert found.dtype.startswith("int8")
    with pytest.raises(InvalidArgument, match="chips are h200"):
        run("roofline", "--chip", "v6e", "--out", out)
    with pytest.raises(InvalidArgument, match="or int8 weights"):
        run("roofline", "--chip", "v6e", "--count", 4, "--model", "llama3.1-70b", "--out", out)


def test_roofline_all_renews_rooflines_and_keeps_better_parts(tmp_path, imported):
    kept = tmp_path / f"{H200}.json"
    write_profile(kept, find_profile(str(imported)))
    run("roofline", "--all", "--out", tmp_path)
    found = find_profile(str(kept))
    assert (found.name, found.parts["steps"].provenance, found.costs.step_s) == (H200, "imported", pytest.approx(0.02))
    assert found.parts["handoff"].provenance == "roofline"
    assert find_profile(str(tmp_path / "v7x-2-llama3.1-8b.json")) == find_profile("v7x-2-llama3.1-8b")
    with pytest.raises(InvalidArgument, match="say nothing"):
        run("roofline", "--all", "--chip", "v6e", "--out", tmp_path)
