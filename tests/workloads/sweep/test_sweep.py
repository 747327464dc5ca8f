import json

import pytest
from click.testing import CliRunner

from cost_profiles.catalog import write_profile
from s2l_jax.core.errors import InvalidArgument
from tests.workloads.test_simulate import PROFILE
from workloads.commands.sweep import sweep
from workloads.sweep.cell import Cell
from workloads.sweep.figures import layout_of, sweep_figure
from workloads.sweep.grid import cells_of, read_grids
from workloads.sweep.replica import run_replica
from workloads.sweep.report import table_rows
from workloads.sweep.result import CellResult, merge
from workloads.sweep.runner import forget, read_results, run_sweep


@pytest.fixture
def profile(tmp_path):
    write_profile(tmp_path / "toy.json", PROFILE)
    return str(tmp_path / "toy.json")


@pytest.fixture
def cell(profile):
    return Cell(profile=profile, sessions=6, qps=0.5, token_scale=0.01, max_tokens=2, token_budget=256)


def test_a_grid_is_every_combination():
    cells = cells_of({"qps": [1, 2], "mode": ["stream", "wait"], "policy": "lcas"})
    assert [(cell.qps, cell.mode, cell.policy) for cell in cells] == [
        (1, "stream", "lcas"),
        (1, "wait", "lcas"),
        (2, "stream", "lcas"),
        (2, "wait", "lcas"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid = 3", "expected .*grid.* tables and nothing else"),
        ("[[grid]]\nqpz = 1", "grid 1 .unnamed.: 'qpz' is not known; expected some of grid, profile"),
        ("[[grid]]\n[[grid]]\ngrid = 'b'\nmode = ['strem']", "grid 2 .b.: mode is 'strem', but must be one of stream"),
        ("[[grid]]\nqps = []", "qps has no value"),
        ("[[grid]]\nqps = 0", "qps is 0, but must be a number above 0"),
        ("[[grid]]\nsessions = 1.5", "sessions is 1.5, but must be a whole number"),
        ("[[grid]]\nsessions = 2\nreplicas = 3", "2 sessions for 3 replicas"),
        ("[[grid]\n", "expected a TOML file"),
    ],
)
def test_a_wrong_grid_is_explained(tmp_path, text, message):
    (tmp_path / "g.toml").write_text(text)
    with pytest.raises(InvalidArgument, match=rf"g\.toml: .*{message}"):
        read_grids(tmp_path / "g.toml")


def test_a_cell_that_two_grids_share_is_kept_once_each():
    assert Cell(grid="a").key == Cell(grid="b").key != Cell(seed=1).key


def test_replicas_share_sessions_and_rate(cell):
    two = Cell(**{**cell.to_json(), "replicas": 4})
    results = [run_replica(two, replica) for replica in range(4)]
    assert [len(result.ttft_final_s) for result in results] == [2, 2, 1, 1]
    assert results[0].ttft_final_s != results[1].ttft_final_s
    merged = merge(two, results)
    assert merged.tokens["prompt"] == sum(result.tokens["prompt"] for result in results)
    assert merged.ttft_final_s["mean"] == pytest.approx(
        sum(sum(result.ttft_final_s) for result in results) / 6, rel=1e-6
    )


def test_policies_and_modes_get_the_same_load(cell):
    results = [
        run_replica(Cell(**{**cell.to_json(), "mode": mode, "policy": policy}), 0)
        for mode, policy in (("stream", "s2l"), ("stream", "fcfs"), ("wait", "s2l"))
    ]
    assert len({result.tokens["prompt"] for result in results}) == 1


def test_a_sweep_goes_on_where_it_stopped(cell, tmp_path):
    cells = [cell, Cell(**{**cell.to_json(), "mode": "wait"})]
    told = []
    first = run_sweep(cells[:1], tmp_path / "out", 1, told.append)
    assert told == [0, 1]
    both = run_sweep(cells, tmp_path / "out", 2, told.append)
    assert told == [0, 1, 1, 2]
    assert both[0] == first[0]
    assert read_results(tmp_path / "out") == both
    broken = next((tmp_path / "out" / "replicas").glob("*.json"))
    broken.write_text(broken.read_text()[:-5])
    again = run_sweep(cells, tmp_path / "out", 1, told.append)
    assert told[4:] == [1, 2]
    assert [result.ttft_final_s for result in again] == [result.ttft_final_s for result in both]
    forget(tmp_path / "out")
    assert not (tmp_path / "out" / "replicas").exists()


def test_a_changed_profile_means_simulating_again(cell, tmp_path, monkeypatch):
    from workloads.sweep import runner

    run_sweep([cell], tmp_path / "out", 1)
    monkeypatch.setattr(runner, "_made_of", lambda cell: "something else")
    told = []
    run_sweep([cell], tmp_path / "out", 1, told.append)
    assert told == [0, 1]


def test_the_command_writes_results_pictures_and_a_page(profile, tmp_path):
    (tmp_path / "g.toml").write_text(
        f"[[grid]]\ngrid = 'small'\nprofile = '{profile}'\nsessions = 4\ntoken_scale = 0.01\ntoken_budget = 256\n"
        "qps = [0.5, 1]\nmode = ['wait', 'stream']\npolicy = ['default_vllm', 's2l']\n"
    )
    result = CliRunner().invoke(sweep, [str(tmp_path / "g.toml"), "--out", str(tmp_path / "out"), "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert "8 cells, 0 sessions failed" in result.output
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())) == 8
    assert (tmp_path / "out" / "small.png").exists()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "stream s2l" in page and "wait default_vllm" in page and "1.00x" in page

    result = CliRunner().invoke(sweep, [str(tmp_path / "g.toml"), "--qps", "3", "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, InvalidArgument) and "--qps" in str(result.exception)


def test_the_number_that_varies_most_goes_along_the_axis(cell):
    def result(**changes):
        some = Cell(**{**cell.to_json(), **changes})
        return CellResult(some, {}, {}, {}, 0, {}, {}, 0, 1, 0.0, 0.0, 0.0)

    results = [
        result(qps=qps, delay=delay, policy=policy)
        for qps in (1, 2, 3)
        for delay in (1, 10)
        for policy in ("s2l", "mcps")
    ]
    layout = layout_of(results)
    assert layout.x == "qps"
    assert list(layout.panels) == ["delay 1", "delay 10"]
    assert {layout.series(some) for some in results} == {"s2l", "mcps"}


def test_policies_go_along_the_axis_where_no_number_varies(cell):
    def result(**changes):
        some = Cell(**{**cell.to_json(), **changes})
        waits_s = {"mean": 1.0, "p50": 1.0, "p95": 2.0, "p99": 3.0, "p999": 4.0}
        return CellResult(some, waits_s, waits_s, waits_s, 0, {}, {}, 0, 1, 0.0, 0.0, 0.0)

    results = [
        result(mode=mode, policy=policy, preemption=preemption)
        for mode in ("wait", "stream")
        for policy in ("default_vllm", "s2l")
        for preemption in ("swap", "auto")
    ]
    layout = layout_of(results)
    assert layout.x == "policy"
    assert len({layout.series(some) for some in results}) == 4
    axes = sweep_figure(results).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["default_vllm", "s2l"]
    assert len({line.get_color() for line in axes.get_lines()}) == 2
    rows = table_rows(results)
    assert [(row["policy"], row["served"], row["P50 sooner"]) for row in rows][:2] == [
        ("default_vllm", "wait swap", "1.00x"),
        ("default_vllm", "wait auto", "1.00x"),
    ]
