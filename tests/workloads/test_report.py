import re
from pathlib import Path

import pytest
from rich.console import Console

from s2l_jax.core.errors import InvalidArgument
from workloads.report.page import write_report
from workloads.report.plots import save_png, ttft_figure
from workloads.report.run import answers_agree, load_runs
from workloads.report.table import compare_rows, rich_table


def test_page_is_self_contained(write_run, tmp_path):
    runs = load_runs([write_run("stream"), write_run("wait", "wait")])
    write_report(tmp_path / "report.html", runs, "A <run>")
    html = (tmp_path / "report.html").read_text()
    assert html.count("<svg") == 3
    assert "A &lt;run&gt;" in html
    assert "4 of 4 answers are equal" in html
    loads = re.findall(r"<(?:script|link|img|iframe)\b|\b(?:src|srcset)=|url\(|@import", html)
    assert all(load == "url(" for load in loads)
    assert not re.findall(r"url\((?!#)", html), "only clip paths inside the pictures may be referred to"
    assert not re.findall(r'href="(?!#)', html)


def test_page_of_one_run_lists_failures(write_run, make_target, tmp_path):
    runs = load_runs([write_run("one", target=make_target(fail=frozenset({"s1"})))])
    write_report(tmp_path / "report.html", runs, "One")
    html = (tmp_path / "report.html").read_text()
    assert "RESOURCE_EXHAUSTED: no room" in html
    assert "answers are equal" not in html


def test_page_of_a_run_in_which_nothing_came_out(write_run, make_target, tmp_path):
    every = frozenset(f"s{number}" for number in range(4))
    runs = load_runs([write_run("none", target=make_target(fail=every))])
    write_report(tmp_path / "report.html", runs, "None")
    assert "No session got as far" in (tmp_path / "report.html").read_text()


def test_answers_that_differ_are_found(write_run, make_target):
    runs = load_runs([write_run("a"), write_run("b", target=make_target(answer="other"))])
    agreement = answers_agree(runs)
    assert (agreement.compared, agreement.equal) == (4, 0)
    assert agreement.differing[0] == ("question 0?", (" 4 of", "other"))


def test_answers_of_different_traces_are_not_compared(write_run):
    runs = load_runs([write_run("a"), write_run("b", sessions=3)])
    assert "different traces" in answers_agree(runs).mismatch


def test_table_has_ratios_only_where_they_mean_something(write_run):
    runs = load_runs([write_run("a"), write_run("b", "wait")])
    rows = {row.label: row for row in compare_rows(runs)}
    assert rows["requests"].cells == ("4", "4")
    assert rows["requests"].ratios == ("",)
    assert rows["preemptions: swap"].cells == ("3", "3")
    p50_s = [run.summary["ttft_final_s"]["p50"] for run in runs]
    assert rows["TTFT from last chunk, P50"].ratios == (f"{p50_s[1] / p50_s[0]:.2f}x",)
    console = Console(width=160)
    with console.capture() as capture:
        console.print(rich_table(runs))
    assert "b / a" in capture.get()


def test_picture_is_written(write_run, tmp_path):
    save_png(ttft_figure(load_runs([write_run("a")])), tmp_path / "deep" / "ttft.png")
    assert (tmp_path / "deep" / "ttft.png").read_bytes().startswith(b"\x89PNG")


def test_runs_of_one_name_are_told_apart(write_run, tmp_path):
    folders = [write_run("x/stream"), write_run("y/stream")]
    assert [run.name for run in load_runs(folders)] == ["x/stream", "y/stream"]
    with pytest.raises(InvalidArgument, match="twice"):
        load_runs([folders[0], folders[0]])


def test_a_folder_without_a_run_says_so(tmp_path: Path):
    with pytest.raises(InvalidArgument, match=r"summary\.json is not there"):
        load_runs([tmp_path])
