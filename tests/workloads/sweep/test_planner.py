import json

import pytest
from click.testing import CliRunner

from cost_profiles.catalog import write_profile
from s2l_jax.core.errors import InvalidArgument
from tests.workloads.test_simulate import PROFILE
from workloads.commands.plan import plan
from workloads.sweep import planner
from workloads.sweep.cell import Cell
from workloads.sweep.planner import Limit, least_replicas
from workloads.sweep.replica import ReplicaResult


@pytest.fixture
def queue(monkeypatch):
    """Hardware on which everybody waits for as many seconds as questions come in one."""
    tried = []

    def run_replica(cell, replica):
        tried.append(round(cell.qps, 6))
        return ReplicaResult([cell.qps], [cell.qps + 1], [], 0, {}, {}, 1, 10, 5, 1.0, 2.0, 0.1)

    monkeypatch.setattr(planner, "run_replica", run_replica)
    return tried


@pytest.mark.parametrize("need", [1, 2, 3, 5, 8, 13, 31, 64])
def test_the_least_number_is_found(queue, need):
    answer = least_replicas(Cell(qps=64.0), [Limit("ttft_final_s", "p99", 64 / need)], 1000)
    assert answer.replicas == need
    assert answer.result.ttft_final_s["p99"] == pytest.approx(64 / need)
    assert need == 1 or (need - 1) in answer.tried
    assert len(queue) == len(set(queue))


def test_all_limits_count(queue):
    limits = [Limit("ttft_final_s", "p99", 10.0), Limit("ttft_open_s", "p50", 3.0)]
    assert least_replicas(Cell(qps=20.0), limits, 100).replicas == 10


def test_few_sessions_are_enough_only_if_they_arrive_for_long(queue):
    limits = [Limit("ttft_final_s", "p99", 1.0)]
    answer = least_replicas(Cell(qps=4.0, sessions=200), limits, 100)
    assert {count: result.cell.sessions for count, result in answer.tried.items()} == {
        1: 480,
        2: 2 * 240,
        3: 3 * 200,
        4: 4 * 200,
    }


def test_what_cannot_be_met_is_said(queue):
    limit = Limit("ttft_open_s", "p50", 1.0)
    answer = least_replicas(Cell(qps=20.0), [Limit("ttft_final_s", "p99", 50.0), limit], 40)
    assert (answer.replicas, answer.result, answer.missed) == (0, None, limit)
    assert max(answer.tried) == 40
    with pytest.raises(InvalidArgument, match="no objective"):
        least_replicas(Cell(), [], 10)


@pytest.mark.parametrize("text", ["2.0", "P98=1", "P99=", "P99=-1", "P99=0", "P99=1s"])
def test_a_wrong_limit_is_explained(text):
    with pytest.raises(InvalidArgument, match=r"expected for example P99=2\.0"):
        Limit.parse("tpot_s", text)


def test_limits_read_well():
    assert Limit.parse("ttft_final_s", "p99=2") == Limit("ttft_final_s", "p99", 2.0)
    assert str(Limit("ttft_final_s", "p99", 2.0)) == "TTFT from the last chunk P99 of 2 s"
    assert str(Limit("tpot_s", "p95", 0.05)) == "TPOT P95 of 0.05 s"


def test_the_command_puts_hardware_side_by_side(tmp_path):
    write_profile(tmp_path / "toy.json", PROFILE)
    options = [
        "--profile",
        str(tmp_path / "toy.json"),
        "--qps",
        "0.5",
        "--sessions",
        "20",
        "--token-budget",
        "256",
        "--token-scale",
        "0.01",
    ]
    result = CliRunner().invoke(
        plan, [*options, "--ttft", "P95=2000", "--price", f"{tmp_path / 'toy.json'}=3", "--json"]
    )
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert (row["replicas"], row["devices"], row["price_per_hour"]) == (1, 1, 3.0)
    assert row["ttft_final_s"]["p95"] <= 2000

    result = CliRunner().invoke(plan, [*options, "--ttft", "P95=0.0001", "--most", "2"])
    assert result.exit_code == 3
    assert "toy: 2 replicas miss TTFT from the last chunk P95" in result.stdout
    result = CliRunner().invoke(plan, [*options, "--ttft", "P95=9", "--token-scale", "1", "--json"])
    assert "sessions fail, being too long" in json.loads(result.stdout)[0]["why_not"]

    result = CliRunner().invoke(plan, [*options, "--ttft", "P95=1", "--price", "other=3"])
    assert isinstance(result.exception, InvalidArgument) and "'other'" in str(result.exception)
