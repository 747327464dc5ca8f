import json

import numpy as np
import pytest
from click.testing import CliRunner

from workloads.commands.trace import trace
from workloads.published import PUBLISHED
from workloads.readers.encode import size_encoding
from workloads.stats.figure import stats_figure
from workloads.stats.load import file_stats
from workloads.stats.published import compare
from workloads.stats.stats import QUANTITIES, gather
from workloads.trace import Event, Header, write_trace

HEADER = Header("w", "somewhere", {"made_up": "chunks"})


def session(name, arrival_s, *chunks, op="append", max_tokens=None):
    """A session from `(gap_s, content)`, content being fields of an event."""
    events = [Event(arrival_s, name, "open", max_tokens=max_tokens)]
    for gap_s, content in chunks:
        events.append(Event(events[-1].t_s + gap_s, name, op, **content))
    return (*events, Event(events[-1].t_s, name, "finish"))


def size(tokens):
    return {"n_tokens": tokens}


def test_sizes_times_and_arrivals():
    stats = gather(
        HEADER,
        [
            session("a", 0.0, (2.0, size(10)), (0.5, size(30)), (1.5, size(2)), max_tokens=4),
            session("b", 1.0, (3.0, size(100))),
            session("c", 5.0, (0.0, size(0)), (1.0, size(7))),
        ],
    )
    assert {name: list(values) for name, values in stats.values.items()} == {
        "tokens": [42, 100, 7],
        "output_tokens": [4],
        "retrieval_s": [4.0, 3.0, 1.0],
        "chunks": [3, 1, 1],  # a chunk without content is none
        "gap_s": [0.5, 1.5],
        "arrival_gap_s": [1.0, 4.0],
        "kept_share": [],
    }
    assert (stats.sessions, stats.tokens) == (3, 149)
    assert stats.arrivals_per_s == pytest.approx(2 / 5)
    assert stats.burstiness == pytest.approx(1.5 / 2.5)
    assert stats.summary("kept_share") is None
    assert stats.summary("retrieval_s") == {
        "mean": pytest.approx(8 / 3),
        "p5": pytest.approx(1.2),
        "p25": 2.0,
        "p50": 3.0,
        "p75": 3.5,
        "p95": pytest.approx(3.9),
        "p99": pytest.approx(3.98),
        "max": 4.0,
    }
    assert (stats.shared_prefix, stats.shared_content) == (0.0, 0.0)


def test_poisson_arrivals_are_not_bursty_and_simultaneous_ones_have_no_rate():
    times_s = np.cumsum(np.random.default_rng(0).exponential(0.5, 4000))
    stats = gather(HEADER, [session(str(n), at_s, (1.0, size(1))) for n, at_s in enumerate(times_s)])
    assert stats.arrivals_per_s == pytest.approx(2.0, rel=0.05)
    assert stats.burstiness == pytest.approx(1.0, abs=0.05)
    stats = gather(HEADER, [session(str(n), 1.0, (1.0, size(1))) for n in range(3)])
    assert (stats.arrivals_per_s, stats.burstiness) == (None, None)


def parts(*names):
    return {"parts": tuple((name, 10) for name in names)}


def test_sharing_of_named_parts():
    stats = gather(
        HEADER,
        [
            session("a", 0.0, (1.0, parts("t", "x", "y"))),
            session("b", 1.0, (1.0, parts("t", "x")), (1.0, parts("z"))),  # begins alike
            session("c", 2.0, (1.0, parts("y", "t", "x"))),  # has the same parts elsewhere
            session("d", 3.0, (1.0, parts("t", "x", "z", "new"))),
        ],
    )
    assert stats.tokens == 130
    assert stats.shared_prefix == pytest.approx((0 + 20 + 0 + 30) / 130)
    assert stats.shared_content == pytest.approx((0 + 20 + 30 + 30) / 130)


def test_a_part_that_is_cut_is_shared_as_far_as_it_goes():
    stats = gather(
        HEADER,
        [session("a", 0.0, (1.0, {"parts": (("x", 4),)})), session("b", 1.0, (1.0, {"parts": (("x", 10),)}))],
    )
    assert stats.shared_content == pytest.approx(4 / 14)


def test_sharing_of_token_ids_is_counted_in_blocks_of_64():
    first, other = tuple(range(200)), tuple(range(130)) + tuple(range(900, 970))
    stats = gather(
        HEADER,
        [
            session("a", 0.0, (1.0, {"tokens": first[:70]}), (1.0, {"tokens": first[70:]})),
            session("b", 1.0, (1.0, {"tokens": other})),
            session("c", 2.0, (1.0, {"tokens": other[1:]})),
        ],
    )
    assert stats.shared_prefix == pytest.approx(128 / 599)
    assert stats.shared_content is None


def test_what_updates_keep():
    versions = (
        (1.0, parts("t", "x", "y", "z")),
        (1.0, parts("t", "x", "w")),
        (1.0, {"parts": (("t", 10), ("x", 5), ("w", 5))}),
        (1.0, parts("q")),
    )
    opened = (Event(0.0, "a", "open", **parts("t")), *session("a", 0.0, *versions, op="update")[1:])
    stats = gather(HEADER, [opened, session("b", 9.0, (1.0, parts("k")), (1.0, parts("k", "l")), op="update")])
    assert list(stats.values["kept_share"]) == pytest.approx([0.5, 0.5, 0.0, 1.0])  # the template is no version
    assert stats.kept_by_version == pytest.approx([0.75, 0.5, 0.0])


def test_updates_of_token_ids_keep_their_longest_common_prefix():
    events = (
        Event(0.0, "a", "open"),
        Event(1.0, "a", "update", tokens=(1, 2, 3, 4)),
        Event(2.0, "a", "update", tokens=(3, 9), keep_tokens=2),  # keeps more than it says
        Event(3.0, "a", "update", tokens=(1, 2, 3, 9, 5)),  # says nothing
        Event(4.0, "a", "append", tokens=(6,)),
        Event(5.0, "a", "update", n_tokens=3, keep_tokens=2),
        Event(5.0, "a", "finish"),
    )
    assert list(gather(HEADER, [events[:5] + events[-1:]]).values["kept_share"]) == [0.75, 1.0]
    mixed = gather(HEADER, [events])
    assert list(mixed.values["tokens"]) == [5]
    assert mixed.values["kept_share"][-1] == pytest.approx(2 / 6)


@pytest.fixture
def text_trace(tmp_path):
    path = tmp_path / "t.jsonl"
    events = []
    for number in range(6):
        name, at_s = f"s{number}", float(number)
        events += [
            Event(at_s, name, "open", text="head " * 4, max_tokens=3),
            Event(at_s + 1.0, name, "append", text="p" * (40 + 4 * number)),
            Event(at_s + 1.5 + number, name, "append", text="q" * 20),
            Event(at_s + 1.5 + number, name, "finish"),
        ]
    write_trace(path, HEADER, events)
    return path


def run(*arguments):
    return CliRunner().invoke(trace, ["stats", *map(str, arguments)])


def test_texts_are_estimated_or_counted(text_trace):
    stats = file_stats(text_trace, size_encoding(0.25))
    assert list(stats.values["tokens"]) == [20 + number for number in range(6)]
    assert stats.counted == "estimated, 0.25 a character"
    assert stats.shared_prefix == pytest.approx(5 * 5 / 135)  # the head
    assert stats.header == HEADER
    by_model = json.loads(run(text_trace, "--tokenize", "tiny-random", "--json").stdout)
    assert (by_model["tokens"]["p50"], by_model["tokens_counted"]) == (90.0, "tiny-random")
    halved = json.loads(run(text_trace, "--tokens-per-char", "0.5", "--json").stdout)
    assert halved["tokens"]["mean"] == pytest.approx(45.0)
    assert run(text_trace, "--tokens-per-char", "0.5", "--tokenize", "tiny-random").exit_code == 2


def test_published_figures_stand_beside_those_of_the_trace(text_trace):
    stats = file_stats(text_trace, size_encoding(0.25))
    rows = {(row.quantity, row.statistic): row for row in compare(stats, "crawler")}
    assert len(rows) == sum(map(len, PUBLISHED["crawler"].values()))
    row = rows["chunks", "mean"]
    assert (row.published, row.found, row.error) == (7.86, 2.0, pytest.approx(2 / 7.86 - 1))
    shown = run(text_trace, "--published", "crawler").output
    assert "chunks per query, mean" in shown and "-74.6%" in shown
    assert "made up: chunks" in shown
    as_json = json.loads(run(text_trace, "--published", "anns", "--json").stdout)
    assert {row["quantity"] for row in as_json["published"]} == {"tokens", "retrieval_s", "chunks", "gap_s"}


def test_a_trace_without_gaps_is_compared_as_far_as_it_goes(tmp_path):
    write_trace(tmp_path / "t.jsonl", HEADER, session("a", 0.0, (1.0, size(5))))
    result = run(tmp_path / "t.jsonl", "--published", "crawler", "--png", tmp_path / "t.png")
    assert result.exit_code == 0, result.output
    assert "gap between chunks, P50" in result.output and "–" in result.output


def test_the_picture_shows_all_that_varies(text_trace, tmp_path):
    assert run(text_trace, "--published", "crawler", "--png", tmp_path / "t.png").exit_code == 0
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    figure = stats_figure(file_stats(text_trace, size_encoding(0.25)), "crawler")
    shown = [axes.get_xlabel() for axes in figure.axes if axes.get_visible()]
    assert shown == ["tokens per query", "retrieval time [s]", "gap between chunks [s]", "time [s]"]
    points = figure.axes[0].get_lines()[1].get_xydata().tolist()
    assert points == [[5749.0, 0.5], [11167.0, 0.75], [28372.0, 0.95]]


def test_every_published_quantity_is_one_of_ours():
    for figures in PUBLISHED.values():
        assert set(figures) <= set(QUANTITIES)
