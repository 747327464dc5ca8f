"""What is generated is current, and asks for nothing that is not there."""

import json
import re

from serving.metrics.declared import METRICS
from serving.metrics.grafana import ROWS, dashboard, expressions
from serving.metrics.metric import Metric
from serving.metrics.written import DASHBOARD, DOCUMENT, END, dashboard_json, document

_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}


def test_the_table_of_metrics_and_the_dashboard_are_current() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert END in text
    assert document(text) == text, "run: python -m serving.metrics.written"
    assert DASHBOARD.read_text(encoding="utf-8") == dashboard_json(), "run: python -m serving.metrics.written"


def _series(metric: Metric) -> set[str]:
    return {f"{name}{suffix}" for name in metric.names for suffix in _SUFFIXES.get(metric.kind, ("",))}


def test_every_series_that_the_dashboard_asks_for_is_declared_with_the_labels_it_is_grouped_by() -> None:
    labels = {name: set(metric.labels) for metric in METRICS for name in _series(metric)}
    for expression in expressions():
        asked = set(re.findall(r"\b((?:s2l|jetstream|process)_\w+)", expression))
        assert asked, expression
        for name in asked - {"process_resident_memory_bytes"}:
            assert name in labels, f"{name} of {expression} is not exported"
            groups = re.findall(r"by \((\w+)\)", expression)
            assert set(groups) <= labels[name] | {"le"}, expression
        assert expression.count("(") == expression.count(")")


def test_panels_do_not_overlap() -> None:
    taken = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len(dashboard()["panels"]) == len(ROWS) + sum(map(len, ROWS.values()))
    assert json.loads(dashboard_json())["uid"] == "s2l"
