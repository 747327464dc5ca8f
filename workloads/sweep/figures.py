"""Pictures of a sweep: waiting times over what varies, one small panel for each load and percentile."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from workloads.report.plots import colours, style
from workloads.sweep.result import CellResult

PERCENTILES = ("p50", "p95", "p99")
_NUMERIC = ("qps", "replicas", "kv_share", "token_budget", "delay", "host_gib", "sessions", "max_batch", "token_scale")
_LOAD = ("profile", "generate", "workload", "delay", "qps", "replicas", "sessions", "token_scale", "max_tokens", "seed")
_SERVED = ("mode", "policy", "preemption", "kv_share", "host_gib", "token_budget", "max_batch")
_MARKS = {"stream": ("-", "o"), "wait": ("--", "s")}
_LABELS = {"qps": "questions per second", "replicas": "replicas", "kv_share": "KV's share of memory"}


@dataclass(frozen=True, slots=True)
class Layout:
    """How a grid's results are laid out.

    Attributes:
      x: the field along the horizontal axis; empty if nothing that is a number varies.
      panels: names of the rows of panels, and their results.
    """

    x: str
    panels: dict[str, list[CellResult]]


def layout_of(results: Sequence[CellResult]) -> Layout:
    """The number that varies most goes along the axis; what else of the load varies makes rows of panels."""
    varying = _varying(results)
    numeric = {name: len(varying[name]) for name in _NUMERIC if name in varying}
    x = max(numeric, key=lambda name: numeric[name]) if numeric else ""
    panels: dict[str, list[CellResult]] = {}
    for result in results:
        panels.setdefault(_describe(result, [name for name in _LOAD if name in varying and name != x]), []).append(
            result
        )
    return Layout(x, panels)


def series_name(result: CellResult, results: Sequence[CellResult], x: str) -> str:
    """What tells a way of serving from the others in these results."""
    varying = _varying(results)
    return _describe(result, [name for name in _SERVED if name in varying and name != x]) or result.cell.policy


def sweep_figure(results: Sequence[CellResult]) -> Figure:
    """TTFT from the last chunk at P50, P95 and P99, a row of panels for each load, a curve for each way of serving."""
    layout = layout_of(results)
    names = list(dict.fromkeys(series_name(result, results, layout.x) for result in results))
    colour_of = _colours(results, names, layout.x)
    rows = len(layout.panels)
    figure = Figure(figsize=(10.5, 0.9 + 2.7 * rows), layout="constrained")
    grid = figure.subplots(rows, len(PERCENTILES), sharex=True, squeeze=False)
    for line, (panel, some) in zip(grid, layout.panels.items(), strict=True):
        for axes, percentile in zip(line, PERCENTILES, strict=True):
            for name in names:
                _draw(
                    axes,
                    [r for r in some if series_name(r, results, layout.x) == name],
                    layout.x,
                    percentile,
                    colour_of,
                    name,
                )
            _dress(axes)
            axes.set_title(f"{panel}  {percentile.upper()}".strip(), fontsize=9, loc="left")
        line[0].set_ylabel("TTFT from the last chunk, s", fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel(_LABELS.get(layout.x, layout.x), fontsize=9)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False, fontsize=8)
    return figure


def _draw(
    axes: Axes, some: Sequence[CellResult], x: str, percentile: str, colour_of: dict[str, str], name: str
) -> None:
    points = [
        (getattr(result.cell, x) if x else 0.0, value_s)
        for result in some
        if (value_s := result.ttft_final_s[percentile]) is not None
    ]
    if not points:
        return
    points.sort()
    line, mark = _MARKS[some[0].cell.mode]
    axes.plot(*zip(*points, strict=True), ls=line, marker=mark, ms=3.5, lw=1.4, color=colour_of[name], label=name)


def _dress(axes: Axes) -> None:
    style(axes)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelsize=8)


def _colours(results: Sequence[CellResult], names: Sequence[str], x: str) -> dict[str, str]:
    """One colour for each way of serving but its mode, which the line shows."""
    bare: dict[str, str] = {}
    for result in results:
        cell = result.cell
        bare[series_name(result, results, x)] = f"{cell.policy} {cell.preemption} {cell.token_budget} {cell.kv_share}"
    kinds = list(dict.fromkeys(bare.values()))
    palette = dict(zip(kinds, colours(len(kinds)), strict=True))
    return {name: palette[bare[name]] for name in names}


def _varying(results: Sequence[CellResult]) -> dict[str, set[Any]]:
    seen: dict[str, set[Any]] = {}
    for result in results:
        for name, value in asdict(result.cell).items():
            seen.setdefault(name, set()).add(value)
    return {name: values for name, values in seen.items() if len(values) > 1 and name != "grid"}


def _describe(result: CellResult, names: Sequence[str]) -> str:
    words = []
    for name in names:
        value = getattr(result.cell, name)
        words.append(value if isinstance(value, str) else f"{name} {value:g}" if value is not None else f"{name} all")
    return " ".join(words)
