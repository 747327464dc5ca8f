"""The figures of runs side by side, with ratios."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from workloads.report.run import Run

MISSING = "–"


def format_seconds(value: float) -> str:
    """Seconds with three digits that matter, in ms below a tenth of a second."""
    if value < 0.0995:
        return f"{value * 1e3:.1f} ms"
    return f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


def _format_count(value: float) -> str:
    return f"{value:,.0f}"


def _format_plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of all runs.

    Attributes:
      label: what it is.
      cells: formatted, one a run.
      ratios: each later run over the first, formatted; empty where a ratio says nothing.
    """

    label: str
    cells: tuple[str, ...]
    ratios: tuple[str, ...]


_Format = Callable[[Any], str]
_FIGURES: tuple[tuple[str, str, _Format, bool], ...] = (
    ("made up in the trace", "made_up", _format_plain, False),
    ("mode", "mode", _format_plain, False),
    ("model", "model", _format_plain, False),
    ("policy", "policy", _format_plain, False),
    ("arrivals per second", "qps", _format_plain, False),
    ("requests", "requests", _format_count, False),
    ("completed", "completed", _format_count, False),
    ("failed", "failed", _format_count, False),
    ("wall time", "wall_s", format_seconds, False),
    ("TTFT from last chunk, mean", "ttft_final_s.mean", format_seconds, True),
    ("TTFT from last chunk, P50", "ttft_final_s.p50", format_seconds, True),
    ("TTFT from last chunk, P95", "ttft_final_s.p95", format_seconds, True),
    ("TTFT from last chunk, P99", "ttft_final_s.p99", format_seconds, True),
    ("TTFT from last chunk, P99.9", "ttft_final_s.p999", format_seconds, True),
    ("TTFT from query, P50", "ttft_open_s.p50", format_seconds, True),
    ("TTFT from query, P95", "ttft_open_s.p95", format_seconds, True),
    ("time per output token, P50", "tpot_s.p50", format_seconds, True),
    ("time per output token, P95", "tpot_s.p95", format_seconds, True),
    ("output tokens", "output_tokens", _format_count, False),
    ("prompt tokens", "tokens_prompt", _format_count, False),
    ("prompt tokens computed", "tokens_computed", _format_count, True),
    ("prompt tokens reused", "tokens_reused", _format_count, False),
    ("prompt tokens invalidated", "tokens_invalidated", _format_count, False),
    ("tokens restored", "tokens_restored", _format_count, False),
    ("tokens computed again", "tokens_recomputed", _format_count, False),
    ("preemptions: swap", "preemptions.swap", _format_count, False),
    ("preemptions: recompute", "preemptions.recompute", _format_count, False),
    ("preemptions: of a tail", "preemptions.tail", _format_count, False),
    ("preemptions: drop", "preemptions.drop", _format_count, False),
    ("engine steps", "engine_steps", _format_count, False),
    *(
        (f"{name}: {label}", f"simulation.engines.{name}.{key}", form, False)
        for name in ("engine", "prefill", "generate")
        for label, key, form in (
            ("KV blocks", "kv_blocks", _format_count),
            ("KV blocks held at most", "kv_peak_blocks", _format_count),
            ("time in which a step ran", "busy_share", lambda share: f"{share:.0%}"),
            ("time in which copies alone ran", "copy_share", lambda share: f"{share:.1%}"),
        )
    ),
    ("server's share of processors", "server_cpu.share", lambda share: f"{share:.0%}", False),
    ("latest send after due time", "send_lag_max_s", format_seconds, False),
)


def compare_rows(runs: Sequence[Run]) -> list[Row]:
    """All figures that at least one of the runs has."""
    rows = []
    for label, path, form, has_ratio in _FIGURES:
        values = [_lookup(run.summary, path) for run in runs]
        if any(value not in (None, "") for value in values):
            cells = tuple(MISSING if value in (None, "") else form(value) for value in values)
            ratios = tuple(_ratio(value, values[0]) if has_ratio else "" for value in values[1:])
            rows.append(Row(label, cells, ratios))
    return rows


def rich_table(runs: Sequence[Run]) -> Table:
    """The figures as a table for the terminal."""
    table = Table(header_style="bold", box=SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for run in runs:
        table.add_column(run.name, justify="right")
    for run in runs[1:]:
        table.add_column(f"{run.name} / {runs[0].name}", justify="right")
    for row in compare_rows(runs):
        table.add_row(row.label, *row.cells, *row.ratios)
    return table


def _lookup(summary: dict[str, Any], path: str) -> Any:
    value: Any = summary
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _ratio(value: float | None, base: float | None) -> str:
    if value is None or base is None or base <= 0:
        return MISSING
    return f"{value / base:.2f}x"
