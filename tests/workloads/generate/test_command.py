import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from workloads.commands.trace import trace
from workloads.published import PUBLISHED
from workloads.trace import read_trace


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(trace, ["generate", *map(str, arguments)])


@pytest.mark.parametrize("workload, sessions", [("crawler", 4322), ("anns", 500)])
def test_a_trace_comes_with_its_figures_beside_the_published_ones(run, workload, sessions):
    result = run(workload, "--out", "t.jsonl", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["sessions"] == sessions
    assert len(told["published"]) == sum(map(len, PUBLISHED[workload].values()))
    assert max(abs(row["error"]) for row in told["published"]) < 0.05

    loaded = read_trace(Path(told["out"]))
    assert len(loaded.sessions) == sessions
    assert "published statistics" in loaded.header.made_up


def test_delays_and_sizes_are_compared_with_published_ones_of_their_scale(run):
    scaled = ("--delay", 30, "--token-scale", 0.1)
    result = run("anns", "--out", "t.jsonl", "--sessions", 300, *scaled)
    assert result.exit_code == 0, result.output
    assert "300 sessions" in result.output
    assert "multiplied by 30, token counts by 0.1" in result.output
    rows = json.loads(run("anns", "--out", "t.jsonl", "--sessions", 300, *scaled, "--json").stdout)["published"]
    wait = next(row for row in rows if (row["quantity"], row["statistic"]) == ("retrieval_s", "p50"))
    assert wait["published"] == pytest.approx(30 * 3.896)
    assert max(abs(row["error"]) for row in rows) < 0.1


@pytest.mark.parametrize("workload", PUBLISHED)
@pytest.mark.parametrize("content", ["text", "tokens"])
def test_content_is_text_or_token_ids_if_asked_for(run, tmp_path, workload, content):
    options = ("--sessions", 5, "--token-scale", 0.01, f"--{content}", "--max-tokens", 7)
    result = run(workload, "--out", "t.jsonl.gz", *options)
    assert result.exit_code == 0, result.output
    loaded = read_trace(tmp_path / "t.jsonl.gz")
    for session in loaded.sessions:
        assert session.events[0].max_tokens == 7
        assert all(getattr(event, content) is not None for event in session.events if event.has_content)
    assert ("PSF licence" in loaded.header.source) == (content == "text")


def test_arrivals_are_as_asked_for(run, tmp_path):
    for options in (("--arrivals", "bursty", "--variation", 5), ("--arrivals", "diurnal", "--swing", 1), ()):
        assert run("crawler", "--out", "t.jsonl", "--sessions", 400, "--qps", 8, *options).exit_code == 0
        arrivals_s = [session.arrival_s for session in read_trace(tmp_path / "t.jsonl").sessions]
        first_half = sum(at_s < 25.0 for at_s in arrivals_s) / 400
        if "diurnal" in options:
            assert first_half > 0.7
        elif not options:
            assert 0.4 < first_half < 0.6
    period = run("crawler", "--out", "t.jsonl", "--sessions", 4, "--arrivals", "diurnal", "--period-s", 0)
    assert "period_s" in str(period.exception)


def test_what_does_not_fit_together_is_refused(run):
    result = run("crawler", "--out", "t.jsonl", "--returns", 0.2)
    assert result.exit_code == 2
    assert "--returns is for anns" in result.output
