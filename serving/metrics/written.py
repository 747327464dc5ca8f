"""Writes what is made from the declarations: the table in docs/observability.md, and the Grafana dashboard.

Run `python -m serving.metrics.written` after changing a metric or a panel.
"""

import json
import re
from pathlib import Path

from serving.metrics.declared import METRICS
from serving.metrics.grafana import dashboard
from serving.metrics.metric import Metric

BEGIN, END = "<!-- metrics -->", "<!-- /metrics -->"
_ROOT = Path(__file__).parents[2]
DOCUMENT = _ROOT / "docs" / "observability.md"
DASHBOARD = Path(__file__).parent / "grafana.json"


def table() -> str:
    """All metrics as a table."""
    lines = ["| metric | type | meaning | also as |", "|---|---|---|---|"]
    return "\n".join([*lines, *map(_line, METRICS)])


def document(text: str) -> str:
    """A text with the table between its marks."""
    return re.sub(f"{BEGIN}.*?{END}", f"{BEGIN}\n{table()}\n{END}", text, flags=re.DOTALL)


def dashboard_json() -> str:
    """The dashboard as it is checked in."""
    return json.dumps(dashboard(), indent=1) + "\n"


def _line(metric: Metric) -> str:
    labels = f"{{{','.join(metric.labels)}}}" if metric.labels else ""
    others = [f"`{name}`" for name in (*metric.also, metric.vllm) if name]
    return f"| `{metric.name}{labels}` | {metric.kind} | {metric.help} | {', '.join(others)} |"


if __name__ == "__main__":
    DOCUMENT.write_text(document(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    DASHBOARD.write_text(dashboard_json(), encoding="utf-8")
