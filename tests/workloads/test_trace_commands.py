"""The subcommands of `s2l trace` as a user runs them."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from workloads.commands.replay import replay
from workloads.commands.trace import trace
from workloads.replay import targets
from workloads.trace import Event, Header, read_trace, write_trace

BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,230,1317,Conversation log
46,GPT-4,40,0,40,API log
118,GPT-4,417,276,693,Conversation log
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "burst.csv").write_text(BURSTGPT)
    return lambda *arguments: CliRunner().invoke(trace, [str(argument) for argument in arguments])


def test_help_lists_the_subcommands_without_importing_them():
    program = (
        "import sys; from serving.cli import main\n"
        "try: main(['trace', '--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('jax', 'numpy', 'grpc', 'rich') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True).stdout
    assert out.splitlines()[-1] == "[]"
    for command in ("convert ", "record ", "stats ", "validate "):
        assert any(line.strip().startswith(command) for line in out.splitlines())


def test_convert_says_what_it_made_up_and_what_it_skipped(run, tmp_path):
    result = run("convert", "burst.csv", "--out", "out/t.jsonl", "--seed", "4")
    assert result.exit_code == 0, result.output
    assert "3 sessions" in result.output
    assert "made up: arrival of chunks (as the crawler's, seed 4)" in result.output
    assert "skipped: 1 requests that failed (no response tokens)" in result.output
    assert read_trace(tmp_path / "out" / "t.jsonl").header.made_up.startswith("arrival of chunks")


def test_convert_obeys_its_options(run, tmp_path):
    options = (
        "--format",
        "burstgpt",
        "--no-chunks",
        "--limit",
        "2",
        "--max-tokens",
        "100",
        "--max-prompt-tokens",
        "500",
    )
    done = json.loads(run("convert", "burst.csv", "--out", "t.jsonl.gz", *options, "--json").stdout)
    assert (done["format"], done["sessions"], done["events"]) == ("burstgpt", 2, 4)
    assert done["made_up"] == ["all tokens"]
    assert done["skipped"] == {"sessions of more than 500 tokens": 1, "requests that failed (no response tokens)": 1}
    opened = [session.events[0] for session in read_trace(tmp_path / "t.jsonl.gz").sessions]
    assert [(event.t_s, event.n_tokens, event.max_tokens) for event in opened] == [(0.0, 472, 18), (113.0, 417, 100)]


def test_convert_stops_at_a_bad_row_unless_told_otherwise(run, tmp_path):
    (tmp_path / "burst.csv").write_text(BURSTGPT.replace("1087", "many"))
    result = run("convert", "burst.csv", "--out", "t.jsonl")
    assert "burst.csv:3: Request tokens is 'many', expected a number (--skip-bad" in str(result.exception)
    assert not (tmp_path / "t.jsonl").exists()
    result = run("convert", "burst.csv", "--out", "t.jsonl", "--skip-bad")
    assert "skipped: 1 bad rows" in result.output and "  burst.csv:3: Request tokens is 'many'" in result.output


def test_texts_become_tokens_or_sizes_but_not_both(run, make_trace, tmp_path):
    make_trace(3)
    assert run("convert", "trace.jsonl", "--out", "t", "--tokenize", "tiny-random").exit_code == 0
    session = read_trace(tmp_path / "t").sessions[0]
    assert bytes(session.events[0].tokens) == b"head " and session.events[0].max_tokens == 5
    assert run("convert", "trace.jsonl", "--out", "t", "--tokens-per-char", "0.5").exit_code == 0
    converted = read_trace(tmp_path / "t")
    assert converted.sessions[0].events[0].parts[0][1] == 2
    assert converted.header.made_up == "tokens of texts (estimated, 0.5 a character)"
    both = run("convert", "trace.jsonl", "--out", "t", "--tokens-per-char", "0.5", "--tokenize", "tiny-random")
    assert both.exit_code == 2 and "exclude each other" in both.output


def test_validate(run, make_trace, tmp_path):
    make_trace(3)
    result = run("validate", "trace.jsonl")
    assert (result.exit_code, result.output) == (0, "trace.jsonl: valid: 3 sessions, 18 events, 0.1 s\n")
    lines = (tmp_path / "trace.jsonl").read_text().splitlines()
    (tmp_path / "bad.jsonl").write_text("\n".join([lines[0], "{}", *lines[1:], "[]"]))
    result = run("validate", "bad.jsonl")
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        "bad.jsonl:2: op is None, expected one of open, append, update, finish",
        "bad.jsonl:21: is a list; expected a JSON object",
    ]
    (tmp_path / "bad.jsonl").write_text("\n".join([lines[0], *["{}"] * 30]))
    output = run("validate", "bad.jsonl").output.splitlines()
    assert len(output) == 21 and output[-1] == "stopped after 20 problems"


def test_a_replay_repeats_what_the_trace_made_up(run, make_target, monkeypatch, tmp_path):
    events = [Event(0.0, "a", "open", text="context", max_tokens=3), Event(0.0, "a", "finish")]
    write_trace(tmp_path / "t.jsonl", Header("t", "some source", {"made_up": "arrival of chunks"}), events)
    monkeypatch.setattr(targets, "GrpcTarget", lambda address: make_target())
    result = CliRunner().invoke(replay, ("t.jsonl", "--target", "grpc://127.0.0.1:1", "--out", "run"))
    assert result.exit_code == 0, result.output
    assert "made up in the trace" in result.output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["made_up"], summary["source"]) == ("arrival of chunks", "some source")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<td>made up in the trace</td><td>arrival of chunks</td>" in page
