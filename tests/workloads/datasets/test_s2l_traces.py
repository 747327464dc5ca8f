import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
from click.testing import CliRunner

from workloads.commands.trace import trace as trace_command
from workloads.crawl.docs import stored_crawl
from workloads.datasets.example import from_example, to_example
from workloads.generate.anns import AnnsConfig, anns_trace
from workloads.generate.crawler import CrawlerConfig, crawler_trace
from workloads.generate.tokens import random_tokens
from workloads.trace import Event, Session, TraceError, read_trace, write_trace

ANY = Session(
    "söme id",
    (
        Event(0.1, "söme id", "open", max_tokens=7, note="Why?"),
        Event(0.123457, "söme id", "append", n_tokens=3),
        Event(1e6 + 0.000001, "söme id", "update", n_tokens=0, keep_tokens=2),
        Event(1e6 + 0.1, "söme id", "update", tokens=(), keep_tokens=2, note="ä\n"),
        Event(1e6 + 0.2, "söme id", "update", parts=()),
        Event(2e6, "söme id", "finish"),
    ),
)
TEXT = Session(
    "t",
    (
        Event(0.0, "t", "open", text=""),
        Event(3.0, "t", "append", text="Grüße"),
        Event(3.0, "t", "update", text="", keep_chars=4),
        Event(3.0, "t", "finish"),
    ),
)


def small_traces(folder):
    scale = {"sessions": 12, "token_scale": 0.02}
    made = {
        "pages": crawler_trace(CrawlerConfig(**scale)),
        "lists": anns_trace(AnnsConfig(**scale)),
        "ids": anns_trace(AnnsConfig(**scale), random_tokens),
    }
    for name, trace in made.items():
        write_trace(folder / f"{name}.jsonl", trace.header, trace.events)
    return {"docs": stored_crawl(), **{name: folder / f"{name}.jsonl" for name in made}}


@pytest.mark.parametrize("session", [ANY, TEXT])
def test_an_example_holds_all_of_a_session(session):
    assert from_example(to_example(session)) == session


@pytest.mark.parametrize("name", ["docs", "pages", "lists", "ids"])
def test_a_trace_comes_back_from_a_data_set(name, tmp_path):
    builders = pytest.importorskip("workloads.datasets.s2l_traces", exc_type=ImportError)
    path = small_traces(tmp_path)[name]
    trace = read_trace(path)
    config = builders.TraceConfig(name=name, trace=path)
    builder = builders.build_dataset(config, tmp_path / "data")
    assert builders.dataset_header(builder) == trace.header
    assert tuple(builders.dataset_sessions(builder)) == trace.sessions
    assert next((tmp_path / "data" / "s2l_traces" / name / "1.0.0").glob("*.array_record-*"))

    again = builders.S2lTraces(config=config, data_dir=tmp_path / "data")  # reads what is there
    assert builders.dataset_header(again) == trace.header
    assert tuple(builders.dataset_sessions(again)) == trace.sessions


def test_unusual_sessions_come_back_too(tmp_path):
    builders = pytest.importorskip("workloads.datasets.s2l_traces", exc_type=ImportError)
    write_trace(tmp_path / "t.jsonl", read_trace(stored_crawl()).header, [*ANY.events, *TEXT.events])
    builder = builders.build_dataset(builders.TraceConfig(name="any", trace=tmp_path / "t.jsonl"), tmp_path / "data")
    found = {session.session: session for session in builders.dataset_sessions(builder)}
    assert found == {"söme id": ANY, "t": TEXT}


@pytest.mark.parametrize("workload, sessions", [("crawler", 4322), ("anns", 500)])
def test_the_published_workloads_are_data_sources_without_tensorflow(workload, sessions, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    program = f"""
import json, sys
import tensorflow_datasets as tfds
import workloads.datasets.s2l_traces
source = tfds.data_source("s2l_traces/{workload}", split="train", data_dir={str(tmp_path)!r})
times = [example["t_us"][0].item() for example in source]
print(json.dumps([len(source), times, "tensorflow" in sys.modules, sorted(source[0])]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    count, times_us, has_tensorflow, columns = json.loads(done.stdout.splitlines()[-1])
    assert (count, has_tensorflow) == (sessions, False)
    assert all(before <= after for before, after in pairwise(times_us)), "in order of arrival"
    assert set(columns) == set(to_example(ANY))


def test_a_data_set_of_no_trace_is_refused(tmp_path):
    builders = pytest.importorskip("workloads.datasets.s2l_traces", exc_type=ImportError)
    (tmp_path / "t.jsonl").write_text("{}\n")
    with pytest.raises(TraceError, match=r"t\.jsonl:1"):
        builders.build_dataset(builders.TraceConfig(name="bad", trace=tmp_path / "t.jsonl"), tmp_path / "data")


def test_the_command_makes_data_sets(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    path = small_traces(tmp_path)["pages"]
    run = lambda *arguments: CliRunner().invoke(trace_command, ["dataset", *map(str, arguments)])  # noqa: E731
    result = run(path, "--data-dir", tmp_path / "data")
    assert result.exit_code == 0, result.output
    assert "12 sessions" in result.output
    assert (tmp_path / "data" / "s2l_traces" / "pages" / "1.0.0" / "dataset_info.json").exists()
    assert run(path, "--data-dir", tmp_path / "data", "--name", "other").exit_code == 0
    assert (tmp_path / "data" / "s2l_traces" / "other").is_dir()
    assert run("anns", "--data-dir", tmp_path / "data", "--name", "other").exit_code == 2
    taken = run(path, "--data-dir", tmp_path / "data", "--name", "crawler")
    assert "crawler is the name of a made-up data set" in str(taken.exception)
    assert "500 sessions" in run("anns", "--data-dir", tmp_path / "data").output


def test_without_the_library_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    monkeypatch.delitem(sys.modules, "workloads.datasets.s2l_traces", raising=False)
    result = CliRunner().invoke(trace_command, ["dataset", "anns", "--data-dir", str(tmp_path)])
    assert "s2l-jax[datasets]" in str(result.exception)


def test_times_are_rounded_to_microseconds():
    event = replace(ANY.events[1], t_s=0.12345678)
    session = from_example(to_example(Session("söme id", (event,))))
    assert session.events[0].t_s == 0.123457
