"""`s2l models` as a user and as a program see it."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from serving.commands.models import models


def run(*args):
    return CliRunner().invoke(models, args)


def test_list():
    entries = json.loads(run("list", "--json").output)
    assert [entry["name"] for entry in entries] == ["smollm2-135m", "tiny-random"]
    assert "Apache-2.0" in run("list").output


def test_info():
    facts = json.loads(run("info", "tiny-random", "--json").output)
    assert (facts["kv_bytes_per_token"], facts["eos_token_ids"], facts["chat_template"]) == (512, [257], False)
    half = json.loads(run("info", "tiny-random", "--dtype", "bfloat16", "--json").output)
    assert half["weights_bytes"] * 2 == facts["weights_bytes"]
    table = run("info", "tiny-random").output
    assert "107 072" in table
    assert "kv bytes per token" in table


def test_check():
    result = run("check", "tiny-random", "--json")
    report = json.loads(result.output)
    assert result.exit_code == 0
    assert report["passed"]
    assert [c["check"] for c in report["checks"]] == ["load", "shapes", "values", "tokenizer", "greedy text"]


def test_a_failed_check_is_shown_and_ends_with_1():
    result = run("check", "nowhere")
    assert result.exit_code == 1
    assert "FAILED" in result.output
    assert "no model 'nowhere'" in " ".join(result.output.split())


def test_convert_writes_a_checkpoint_once(tmp_path):
    def convert(*options):
        program = "from serving.cli import main; main()"  # by itself: it decides how many devices there are
        command = [sys.executable, "-c", program, "models", "convert", "tiny-random", str(tmp_path / "out"), *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)

    done = convert("--quantization", "int8", "--dtype", "bfloat16")
    assert (done.returncode, done.stderr) == (0, "Converting ...\n")
    assert "tiny-random, int8 and bfloat16, 0.00 GB" in done.stdout
    facts = json.loads(run("info", str(tmp_path / "out"), "--json").output)
    assert (facts["name"], facts["quantization"]) == ("tiny-random", "int8")
    again = convert()
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.endswith("out exists already: remove it, or give another name\n")


def test_info_of_int8():
    facts = json.loads(run("info", "tiny-random", "--quantization", "int8", "--json").output)
    assert facts["weights_bytes"] < json.loads(run("info", "tiny-random", "--json").output)["weights_bytes"]


@pytest.mark.parametrize("command", ["list", "info", "check"])
def test_help(command):
    assert "--json" in run(command, "--help").output
