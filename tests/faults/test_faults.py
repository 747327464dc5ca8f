"""The scripts of this folder, short and over the fake engine: real processes, real signals, real connections."""

from pathlib import Path

import pytest

from tests.faults import cuts, kills, stops, storm
from tests.faults.load import make_scripts
from tests.faults.namespaces import veth_links, why_not
from tests.faults.outage import outages
from tests.faults.processes import Sizes
from tests.faults.same_tokens import SIDES, compare
from tests.faults.verdict import Verdict

FAKE = Sizes()
NO_NAMESPACES = why_not()


def test_separate_processes_answer_as_one(tmp_path: Path) -> None:
    verdict = Verdict(1)
    compare(FAKE, make_scripts(32, 1), tmp_path, verdict, 1, [SIDES])
    assert not verdict.failed


@pytest.mark.parametrize(("victim", "stages"), [("prefill", (1, 3)), ("generate", (3, 5))])
def test_kill(victim: str, stages: tuple[int, ...], tmp_path: Path) -> None:
    verdict = Verdict(len(stages))
    kills.kill_each(victim, [kills.STAGES[victim][number] for number in stages], FAKE, tmp_path, verdict)
    assert not verdict.failed


def test_kill_of_the_orchestrator(tmp_path: Path) -> None:
    verdict = Verdict(1)
    kills.kill_orchestrator(FAKE, tmp_path, verdict)
    assert not verdict.failed


def test_stops(tmp_path: Path) -> None:
    verdict = Verdict(1)
    outages(verdict, "stopped", FAKE, tmp_path, [1.3], stops.stop_and_go, victims=["generate"])
    assert not verdict.failed


def test_cuts(tmp_path: Path) -> None:
    verdict = Verdict(2)
    outages(verdict, "cut off", FAKE, tmp_path, [0.2, 1.3], cuts.cut_and_heal, victims=["prefill"])
    assert not verdict.failed


def test_a_server_that_was_stopped_goes_on(tmp_path: Path) -> None:
    verdict = Verdict(1)
    stops.stop_server(FAKE, tmp_path, verdict, 1.3, 0)
    assert not verdict.failed


@pytest.mark.skipif(NO_NAMESPACES is not None, reason=str(NO_NAMESPACES))
def test_cuts_between_namespaces(tmp_path: Path) -> None:
    verdict = Verdict(1)
    with veth_links(1) as veths:
        outages(verdict, "cut off", FAKE, tmp_path, [1.3], cuts.cut_and_heal, victims=["generate"], veths=veths)
    assert not verdict.failed


def test_random_faults(tmp_path: Path) -> None:
    verdict = Verdict(5)
    storm.storm(FAKE, 10, 1, 1.2, tmp_path, verdict, 24.0)
    assert not verdict.failed


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("victim", ["prefill", "generate"])
def test_kill_at_each_stage_of_the_model(victim: str, tmp_path: Path) -> None:
    verdict = Verdict(len(kills.STAGES[victim]))
    kills.kill_each(victim, kills.STAGES[victim], Sizes("tiny-random"), tmp_path, verdict)
    assert not verdict.failed


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_random_faults_of_the_model(tmp_path: Path) -> None:
    verdict = Verdict(5)
    storm.storm(Sizes("tiny-random"), 100, 1, 20.0, tmp_path, verdict, 24.0)
    assert not verdict.failed
