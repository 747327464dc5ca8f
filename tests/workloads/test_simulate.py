import json
from dataclasses import replace
from itertools import pairwise

import pytest
from click.testing import CliRunner

from cost_profiles.catalog import find_profile, write_profile
from cost_profiles.padding import PaddedCosts, Padding
from cost_profiles.profile import PARTS, Part, Profile, ProfileMemory
from s2l_jax.core.costs import PhysicalCosts
from s2l_jax.core.errors import InvalidArgument
from workloads.commands.compare import compare
from workloads.commands.replay import replay
from workloads.replay.rows import read_step_rows
from workloads.replay.schedule import plan_sessions
from workloads.replay.simulation import simulate
from workloads.replay.simulation_config import SimulationConfig, make_server, scheduler_config
from workloads.trace import Event, Header, Session, write_trace

GIB = 2**30
PROFILE = Profile(
    name="toy",
    model="toy",
    hardware="none",
    devices=1,
    dtype="float32",
    memory=ProfileMemory(3 * GIB, GIB, GIB, GIB // 64, 16),
    max_model_len=2000,
    costs=PhysicalCosts(1.0, 0.01, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0),
    parts={name: Part("roofline", "made up") for name in PARTS},
)


@pytest.fixture
def files(tmp_path):
    events = []
    for number in range(4):
        name, at_s = f"s{number}", float(number)
        events += [
            Event(at_s, name, "open", max_tokens=3, parts=(("template", 20),)),
            Event(at_s + 2, name, "append", n_tokens=100),
            Event(at_s + 4, name, "append", n_tokens=50),
            Event(at_s + 4, name, "finish"),
        ]
    write_trace(tmp_path / "trace.jsonl", Header("toy trace"), events)
    write_profile(tmp_path / "toy.json", PROFILE)
    return tmp_path


def run(command, *arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_a_simulated_replay_writes_what_a_real_one_does_and_its_steps(files):
    target = f"simulate:{files / 'toy.json'}"
    result = run(replay, files / "trace.jsonl", "--target", target, "--out", files / "out", "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["completed"], summary["output_tokens"], summary["model"]) == (4, 12, "toy")
    assert summary["target"] == "simulate:toy"
    assert summary["simulation"]["engines"]["engine"]["provenance"] == dict.fromkeys(PARTS, "roofline")
    assert summary["simulation"]["engines"]["engine"]["kv_blocks"] == int(2 * 64 * 0.8)
    assert {path.name for path in (files / "out").iterdir()} == {
        "summary.json",
        "sessions.parquet",
        "events.parquet",
        "steps.parquet",
        "timeline.json",
        "report.html",
        "ttft.png",
    }
    steps = read_step_rows(files / "out")
    assert len(steps) == summary["engine_steps"]
    assert summary["tokens_computed"] + summary["tokens_reused"] == 4 * 170
    assert summary["tokens_reused"] >= 3 * 16  # the template
    for before, after in pairwise(steps):
        assert after.start_s >= before.start_s + before.duration_s - 1e-9
    events = json.loads((files / "out" / "timeline.json").read_text())["traceEvents"]
    assert sum(event["ph"] == "X" and event["pid"] == 1 for event in events) == len(steps)
    assert sum(event["name"] == "TTFT" for event in events) == 4


def test_a_simulation_repeats_itself_and_knows_no_answers(files):
    target = f"simulate:{files / 'toy.json'}"
    summaries = []
    for out in ("a", "b"):
        assert run(replay, files / "trace.jsonl", "--target", target, "--out", files / out).exit_code == 0
        summaries.append(json.loads((files / out / "summary.json").read_text()))
        del summaries[-1]["simulation"]["took_s"]
    assert summaries[0] == summaries[1]
    assert "a simulated run has no answers" in run(compare, files / "a", files / "b").output


def test_a_profile_that_is_not_there_is_named_with_those_that_are(files):
    result = run(replay, files / "trace.jsonl", "--target", "simulate:h900", "--out", files / "out")
    assert isinstance(result.exception, InvalidArgument)
    assert "'h900'" in str(result.exception) and "h200-tp2-llama3.1-8b" in str(result.exception)


def test_a_trace_of_text_cannot_be_simulated(files):
    write_trace(files / "text.jsonl", Header("t"), [Event(0, "a", "open", text="hello"), Event(0, "a", "finish")])
    target = f"simulate:{files / 'toy.json'}"
    result = run(replay, files / "text.jsonl", "--target", target, "--out", files / "out")
    assert isinstance(result.exception, InvalidArgument)
    assert "session 'a' brings text" in str(result.exception)


def test_options_reach_the_scheduler():
    config = SimulationConfig("lcas", "swap", 0.5, None, GIB // 2, 512, 1024, 900)
    made = scheduler_config(config, PROFILE, 7)
    assert (made.policy, made.preemption, made.num_blocks, made.host_blocks) == ("lcas", "swap", 64, 32)
    assert (made.token_budget, made.max_batch, made.max_model_len, made.max_sessions) == (512, 512, 900, 7)
    made = scheduler_config(SimulationConfig(kv_blocks=10), PROFILE, 7)
    assert (made.num_blocks, made.max_model_len, made.host_blocks) == (10, 160, 64)


def test_latency_adds_to_the_wait(make_trace):
    (session,) = make_trace(1).sessions
    events = tuple(replace(event, text=None, n_tokens=5 if event.text else None) for event in session.events)
    planned = plan_sessions([replace(session, events=events)], "stream", None, 0, 100)
    waits_s = []
    for latency_s in (0.0, 0.25):
        result = simulate(planned, make_server(SimulationConfig(), replace(PROFILE, latency_s=latency_s), 1))
        waits_s.append(result.measured.sessions[0].ttft_open_s)
    assert waits_s[1] - waits_s[0] == pytest.approx(0.25)


def test_padding_that_a_profile_knows_of_takes_time():
    padding = Padding((1, 64), 8, 16, 16, 4, 64, 16, 48)
    padded = PaddedCosts(padding, (0.1, 5.0), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    events = (Event(0.0, "a", "open", n_tokens=40, max_tokens=2), Event(0.0, "a", "finish"))
    planned = plan_sessions([Session("a", events)], "stream", None, 0, 100)
    for profile, durations_s in (
        (PROFILE, [1.4, 1.5]),  # a second, and a hundredth for each of 40 tokens; half a second for a decode
        (replace(PROFILE, padded=padded), [5.0, 0.1]),
    ):
        result = simulate(planned, make_server(SimulationConfig(), profile, 1))
        assert [step.duration_s for step in result.steps["engine"]] == pytest.approx(durations_s)
        apart = simulate(planned, make_server(SimulationConfig(), profile, 1, generate=profile))
        assert [step.duration_s for step in apart.steps["prefill"]] == pytest.approx(durations_s[:1])
        assert [step.duration_s for step in apart.steps["generate"]] == pytest.approx(durations_s[1:])


def test_stored_profiles_can_be_read():
    assert find_profile("h200-tp2-llama3.1-8b").devices == 2
