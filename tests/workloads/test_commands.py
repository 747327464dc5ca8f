import json
from typing import ClassVar

import pytest
from click.testing import CliRunner

from workloads.commands.compare import compare
from workloads.commands.demo import demo
from workloads.commands.replay import replay
from workloads.crawl.docs import stored_crawl
from workloads.crawl.questions import PYTHON_QUESTIONS
from workloads.demo import demo as demo_module
from workloads.demo.server import ServerProcess
from workloads.prompt import Prompt
from workloads.replay import targets
from workloads.trace import read_trace


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda command, *arguments: CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture
def trace_path(make_trace, tmp_path):
    make_trace(3)
    return tmp_path / "trace.jsonl"


def test_replay_writes_a_folder_and_prints_a_table(run, trace_path, make_target, monkeypatch, tmp_path):
    monkeypatch.setattr(targets, "GrpcTarget", lambda address: make_target())
    arguments = (trace_path, "--target", "grpc://127.0.0.1:1", "--qps", "50", "--out", "out")
    result = run(replay, *arguments)
    assert result.exit_code == 0, result.output
    assert "TTFT from last chunk, P50" in result.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"summary.json", "sessions.parquet", "events.parquet", "timeline.json", "report.html", "ttft.png"}

    result = run(replay, *arguments, "--mode", "wait", "--limit", "2", "--json")
    assert json.loads(result.stdout) | {"requests": 2, "mode": "wait", "qps": 50.0} == json.loads(result.stdout)


def test_replay_runs_its_engine_as_told(run, trace_path, make_target, monkeypatch):
    engines = []

    def make(spec, engine, progress):
        engines.append(engine)
        return make_target()

    monkeypatch.setattr(targets, "make_target", make)
    told = ("--model", "tiny-random", "--policy", "lcas", "--kv-blocks", "40", "--max-model-len", "512")
    more = ("--host-kv-gib", "0.5", "--preemption", "swap")
    for options in ((*told, *more), ()):
        assert run(replay, trace_path, "--target", "engine", "--qps", "50", "--out", "out", *options).exit_code == 0
    chosen, default = engines
    assert (chosen.model, chosen.policy, chosen.kv_blocks, chosen.max_model_len) == ("tiny-random", "lcas", 40, 512)
    assert (chosen.host_kv_gib, chosen.preemption) == (0.5, "swap")
    assert (default.policy, default.host_kv_gib, default.preemption) == ("s2l", None, "auto")


def test_replay_says_by_its_exit_code_that_sessions_failed(run, trace_path, make_target, monkeypatch):
    monkeypatch.setattr(targets, "GrpcTarget", lambda address: make_target(fail=frozenset({"s2"})))
    result = run(replay, trace_path, "--target", "grpc://127.0.0.1:1", "--out", "out")
    assert result.exit_code == 3
    assert "failed for 1 of 3 sessions: RESOURCE_EXHAUSTED: no room" in result.output


def test_compare_prints_ratios_and_agreement(run, write_run, tmp_path, make_target):
    folders = write_run("stream"), write_run("wait", "wait"), write_run("odd", target=make_target(answer="else"))
    result = run(compare, *folders[:2], "--out", "both")
    assert result.exit_code == 0
    assert "wait / stream" in result.output
    assert "4 of 4 answers are equal" in result.output
    assert (tmp_path / "both" / "report.html").exists()
    assert (tmp_path / "both" / "ttft.png").exists()

    assert "differs: question 2?" in run(compare, folders[0], folders[2]).output
    answers = json.loads(run(compare, folders[0], folders[2], "--json").stdout)["answers"]
    assert (answers["compared"], answers["equal"], len(answers["differing"])) == (4, 0, 4)


class NoServer:
    """Stands in for a server process."""

    started: ClassVar[list[list[str]]] = []

    def __init__(self, arguments):
        self.started.append(arguments)
        self.address = "grpc://127.0.0.1:1"
        self._cpu_s = 0.0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def cpu_s(self):
        self._cpu_s += 0.1
        return self._cpu_s


@pytest.mark.parametrize(("failing", "exit_code"), [((), 0), (("s2",), 3)])
def test_demo_from_beginning_to_end(run, trace_path, make_target, monkeypatch, tmp_path, failing, exit_code):
    monkeypatch.setattr(demo_module, "stored_crawl", lambda: trace_path)
    monkeypatch.setattr(demo_module, "ServerProcess", NoServer)
    monkeypatch.setattr(demo_module, "GrpcTarget", lambda address: make_target(fail=frozenset(failing)))
    result = run(demo, "--recorded", "--qps", "50", "--out", "out/demo")
    assert result.exit_code == exit_code, result.output
    assert "times sooner" in result.output
    assert f"{3 - len(failing)} of {3 - len(failing)} answers are equal" in result.output
    assert result.output.count("question 0?") == 1
    assert ("stream failed for 1 of 3 sessions: RESOURCE_EXHAUSTED" in result.output) == bool(failing)
    out = tmp_path / "out" / "demo"
    for mode in ("stream", "wait"):
        summary = json.loads((out / mode / "summary.json").read_text())
        assert summary["mode"] == mode
        assert summary["server_cpu"]["used_s"] == pytest.approx(0.1)
    assert (out / "ttft.png").exists()
    assert (out / "report.html").read_text().count("<svg") == 3
    assert NoServer.started[-1][:2] == ["--model", "smollm2-135m"]


def test_stored_crawl_asks_the_questions_and_names_its_licence():
    trace = read_trace(stored_crawl())
    assert tuple(session.events[0].note for session in trace.sessions) == PYTHON_QUESTIONS
    assert "PSF licence" in trace.header.source
    for session in trace.sessions:
        assert session.events[0].text == Prompt().head
        assert session.events[-2].text.endswith(Prompt().tail(session.events[0].note))
    assert stored_crawl().with_name("python_docs_licence.txt").exists()


def test_a_server_that_cannot_start_says_so():
    with pytest.raises(Exception, match="ended with status 2 before it was ready"), ServerProcess(["--no-such-option"]):
        pass
