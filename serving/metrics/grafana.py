"""The Grafana dashboard, as code; `python -m serving.metrics.written` writes it to `grafana.json` beside this file."""

from dataclasses import dataclass
from typing import Any

_WIDTH = 24
_PANEL_HEIGHT = 8
_SELECT = '{model_name=~"$model",instance=~"$instance"}'
_DATASOURCE = {"type": "prometheus", "uid": "$datasource"}


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph.

    Attributes:
      title: what it shows.
      unit: as Grafana names it.
      series: legend and expression of each line.
      stacked: lines are shown on top of each other.
      help: what to look for.
    """

    title: str
    unit: str
    series: tuple[tuple[str, str], ...]
    stacked: bool = False
    help: str = ""


def _quantiles(histogram: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (
            f"P{100 * q:g}",
            f"histogram_quantile({q:g}, sum by (le) (rate({histogram}_bucket{_SELECT}[$__rate_interval])))",
        )
        for q in (0.5, 0.95, 0.99)
    )


def _rate(counter: str, legend: str) -> tuple[str, str]:
    return legend, f"sum(rate({counter}{_SELECT}[$__rate_interval]))"


def _rates_by(counter: str, label: str) -> tuple[tuple[str, str], ...]:
    return ((f"{{{{{label}}}}}", f"sum by ({label}) (rate({counter}{_SELECT}[$__rate_interval]))"),)


def _sum_by(gauge: str, label: str) -> tuple[tuple[str, str], ...]:
    return ((f"{{{{{label}}}}}", f"sum by ({label}) ({gauge}{_SELECT})"),)


def _sum(gauge: str, legend: str) -> tuple[str, str]:
    return legend, f"sum({gauge}{_SELECT})"


def _share(part: str, whole: str) -> str:
    return f"sum(rate({part}{_SELECT}[$__rate_interval])) / sum(rate({whole}{_SELECT}[$__rate_interval]))"


ROWS: dict[str, tuple[Panel, ...]] = {
    "Latency": (
        Panel(
            "TTFT after the last chunk",
            "s",
            _quantiles("s2l_ttft_from_last_chunk_seconds"),
            help="What the server adds once the context is complete.",
        ),
        Panel(
            "TTFT after the opening",
            "s",
            _quantiles("s2l_ttft_from_open_seconds"),
            help="What the user waits in all, the arrival of the context included.",
        ),
        Panel("Between tokens", "s", _quantiles("s2l_inter_token_latency_seconds")),
        Panel("Queue", "s", _quantiles("s2l_request_queue_time_seconds")),
        Panel("Complete context to last token", "s", _quantiles("s2l_e2e_request_latency_seconds")),
        Panel("Arrival of context", "s", _quantiles("s2l_context_arrival_seconds")),
    ),
    "Load": (
        Panel("Sessions", "short", _sum_by("s2l_sessions", "phase"), stacked=True),
        Panel(
            "Requests",
            "short",
            (_sum("s2l_num_requests_waiting", "waiting"), _sum("s2l_num_requests_running", "running")),
            help="Waiting ones are the backlog to scale by.",
        ),
        Panel(
            "Openings",
            "ops",
            (_rate("s2l_sessions_opened_total", "opened"), _rate("s2l_sessions_refused_total", "refused")),
        ),
        Panel("Ends", "ops", _rates_by("s2l_request_success_total", "finished_reason"), stacked=True),
        Panel("Errors", "ops", _rates_by("s2l_session_errors_total", "status"), stacked=True),
        Panel("Events of streams", "ops", _rates_by("s2l_stream_chunks_total", "op"), stacked=True),
    ),
    "Tokens": (
        Panel(
            "Tokens a second",
            "short",
            (_rate("s2l_prompt_tokens_total", "prompt"), _rate("s2l_generation_tokens_total", "generated")),
        ),
        Panel("Context computed", "short", _rates_by("s2l_prefill_tokens_total", "pass"), stacked=True),
        Panel(
            "Updates",
            "short",
            (
                _rate("s2l_lcp_tokens_kept_total", "kept"),
                _rate("s2l_lcp_tokens_invalidated_total", "computed in vain"),
            ),
            help="Tokens in front that updates left, and computed ones that they threw away.",
        ),
        Panel(
            "Prefix cache, share of hits",
            "percentunit",
            (("hits", _share("s2l_prefix_cache_hits_total", "s2l_prefix_cache_queries_total")),),
        ),
    ),
    "Memory": (
        Panel("KV blocks, device", "short", _sum_by("s2l_device_pool_blocks", "state"), stacked=True),
        Panel("KV blocks, host", "short", _sum_by("s2l_host_pool_blocks", "state"), stacked=True),
        Panel("Preemptions", "ops", _rates_by("s2l_preemptions_total", "action"), stacked=True),
        Panel("Block copies", "ops", _rates_by("s2l_block_copies_total", "direction"), stacked=True),
        Panel(
            "Cost of preemption",
            "s",
            (("{{kind}}", f"sum by (kind) (rate(s2l_preempt_cost_seconds_sum{_SELECT}[$__rate_interval]))"),),
            help="Seconds a second, as predicted when blocks were taken, and as it turned out.",
        ),
        Panel("Resident memory", "bytes", (("{{instance}}", 'process_resident_memory_bytes{instance=~"$instance"}'),)),
    ),
    "Engine": (
        Panel("Time of a step", "s", _quantiles("s2l_step_seconds")),
        Panel("Tokens of a step", "short", _quantiles("s2l_iteration_tokens")),
        Panel(
            "Failures",
            "ops",
            (
                _rate("s2l_step_failures_total", "steps"),
                _rate("s2l_handoff_failures_total", "hand-overs"),
                _rate("s2l_sessions_resumed_total", "sessions computed again"),
            ),
        ),
        Panel(
            "Busy",
            "percentunit",
            (("{{engine}}", f"sum by (engine) (rate(s2l_step_seconds_sum{_SELECT}[$__rate_interval]))"),),
        ),
    ),
}


def expressions() -> list[str]:
    """All expressions of all panels."""
    return [expression for panels in ROWS.values() for panel in panels for _, expression in panel.series]


def dashboard() -> dict[str, Any]:
    """The dashboard in Grafana's format."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        panels.append(_row(title, top, len(panels) + 1))
        top += 1
        width = _WIDTH // (3 if len(row) % 3 == 0 else 4)
        for index, panel in enumerate(row):
            left = index * width % _WIDTH
            panels.append(_graph(panel, len(panels) + 1, left, top + index * width // _WIDTH * _PANEL_HEIGHT, width))
        top += -(-len(row) * width // _WIDTH) * _PANEL_HEIGHT
    return {
        "title": "s2l",
        "uid": "s2l",
        "tags": ["llm", "s2l"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": _variables()},
        "panels": panels,
    }


def _variables() -> list[dict[str, Any]]:
    def of(name: str, label: str, query: str) -> dict[str, Any]:
        return {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": _DATASOURCE,
            "query": {"query": query, "refId": name},
            "definition": query,
            "refresh": 2,
            "includeAll": True,
            "multi": True,
            "current": {"text": "All", "value": "$__all"},
        }

    return [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        of("model", "Model", "label_values(s2l_num_requests_running, model_name)"),
        of("instance", "Instance", 'label_values(s2l_num_requests_running{model_name=~"$model"}, instance)'),
    ]


def _row(title: str, top: int, number: int) -> dict[str, Any]:
    place = {"x": 0, "y": top, "w": _WIDTH, "h": 1}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _graph(panel: Panel, number: int, left: int, top: int, width: int) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + index), "datasource": _DATASOURCE, "expr": expression, "legendFormat": legend}
        for index, (legend, expression) in enumerate(panel.series)
    ]
    custom: dict[str, Any] = {"fillOpacity": 30 if panel.stacked else 5, "showPoints": "never"}
    if panel.stacked:
        custom["stacking"] = {"mode": "normal", "group": "A"}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.help,
        "datasource": _DATASOURCE,
        "gridPos": {"x": left, "y": top, "w": width, "h": _PANEL_HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": custom}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }
