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
_LINES = {"stream": "-", "wait": "--"}
_MARKS = {"stream": "o", "wait": "s"}
_LABELS = {"qps": "questions per second", "replicas": "replicas", "kv_share": "KV's share of memory"}
_SPREAD = 0.7  # of the room of one policy, which its marks share


@dataclass(frozen=True, slots=True)
class Layout:
    """How a grid's results are laid out.

    Attributes:
      x: the field along the horizontal axis; `policy` if nothing that is a number varies.
      panels: names of the rows of panels, and their results.
      telling: fields that tell one way of serving from another.
    """

    x: str
    panels: dict[str, list[CellResult]]
    telling: tuple[str, ...]

    def series(self, result: CellResult) -> str:
        """The way of serving, in words."""
        return _describe(result, self.telling) or result.cell.policy

    def kind(self, result: CellResult) -> str:
        """The way of serving but its mode."""
        return _describe(result, [name for name in self.telling if name != "mode"])


def layout_of(results: Sequence[CellResult]) -> Layout:
    """The number that varies most goes along the axis, else the policy; what else of the load varies makes panels."""
    varying = _varying(results)
    numeric = {name: len(varying[name]) for name in _NUMERIC if name in varying}
    x = max(numeric, key=lambda name: numeric[name]) if numeric else "policy"
    load = [name for name in _LOAD if name in varying and name != x]
    panels: dict[str, list[CellResult]] = {}
    for result in results:
        panels.setdefault(_describe(result, load), []).append(result)
    return Layout(x, panels, tuple(name for name in _SERVED if name in varying and name != x))


def sweep_figure(results: Sequence[CellResult]) -> Figure:
    """TTFT from the last chunk at P50, P95 and P99, a row of panels for each load, a curve for each way of serving."""
    layout = layout_of(results)
    rows = len(layout.panels)
    figure = Figure(figsize=(10.5, 0.9 + 2.7 * rows), layout="constrained")
    grid = figure.subplots(rows, len(PERCENTILES), sharex=True, squeeze=False)
    colour_of = _colours(results, layout)
    for line, (panel, some) in zip(grid, layout.panels.items(), strict=True):
        for axes, percentile in zip(line, PERCENTILES, strict=True):
            _draw(axes, some, layout, percentile, colour_of)
            _dress(axes)
            axes.set_title(f"{panel}  {percentile.upper()}".strip(), fontsize=9, loc="left")
        line[0].set_ylabel("TTFT from the last chunk, s", fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel(_LABELS.get(layout.x, layout.x), fontsize=9)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False, fontsize=8)
    return figure


def _draw(axes: Axes, some: Sequence[CellResult], layout: Layout, percentile: str, colour_of: dict[str, str]) -> None:
    series: dict[str, list[CellResult]] = {}
    for result in some:
        series.setdefault(layout.series(result), []).append(result)
    policies = list(dict.fromkeys(result.cell.policy for result in some))
    by_policy = layout.x == "policy"
    for number, (name, found) in enumerate(series.items()):
        aside = _SPREAD * ((number + 0.5) / len(series) - 0.5)
        points = [
            (policies.index(result.cell.policy) + aside if by_policy else getattr(result.cell, layout.x), value_s)
            for result in found
            if (value_s := result.ttft_final_s[percentile]) is not None
        ]
        if points:
            cell = found[0].cell
            axes.plot(
                *zip(*sorted(points), strict=True),
                ls="" if by_policy else _LINES[cell.mode],
                marker=_MARKS[cell.mode],
                ms=5 if by_policy else 3.5,
                lw=1.4,
                color=colour_of[layout.kind(found[0])],
                label=name,
            )
    if by_policy:
        axes.set_xticks(range(len(policies)), policies, rotation=20)


def _dress(axes: Axes) -> None:
    style(axes)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelsize=8)


def _colours(results: Sequence[CellResult], layout: Layout) -> dict[str, str]:
    """One colour for each way of serving but its mode, which line and mark show."""
    kinds = list(dict.fromkeys(layout.kind(result) for result in results))
    return dict(zip(kinds, colours(len(kinds)), strict=True))


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
