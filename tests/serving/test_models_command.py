"""`s2l models` as a user and as a program see it."""

import json

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


@pytest.mark.parametrize("command", ["list", "info", "check"])
def test_help(command):
    assert "--json" in run(command, "--help").output
