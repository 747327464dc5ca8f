"""Small multiples: how the quantities of a trace are distributed, beside the published ones if asked for."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from workloads.published import PUBLISHED
from workloads.report.plots import COLOURS
from workloads.stats.stats import QUANTITIES, TraceStats
from workloads.stats.table import format_figure

_TRACE, _PUBLISHED = COLOURS[0], COLOURS[1]
_COLUMNS = 3
_LINEAR = ("chunks", "kept_share")
_LEAST_SHARE = 0.002  # values below this quantile are not shown on a logarithmic axis
_RATE_BINS = 60


def stats_figure(stats: TraceStats, workload: str | None = None) -> Figure:
    """One panel a quantity: the share of values below each; and arrivals over time.

    Args:
      stats: of the trace.
      workload: whose published percentiles are shown as points; None shows none.
    """
    names = [name for name in QUANTITIES if name != "arrival_gap_s" and len(np.unique(stats.values[name])) > 1]
    published = {} if workload is None else PUBLISHED[workload]
    panels = len(names) + 1
    rows = -(-panels // _COLUMNS)
    figure = Figure(figsize=(4.0 * _COLUMNS, 2.9 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for name, one in zip(names, axes, strict=False):
        _draw_distribution(one, name, stats.values[name], published.get(name, {}))
    _draw_arrivals(axes[len(names)], stats)
    for one in axes[panels:]:
        one.set_visible(False)
    title = f"{stats.header.name}: {stats.sessions:,} sessions"
    if stats.header.made_up:
        title += f"\nmade up: {stats.header.made_up}"
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    if workload is not None:
        handles = [one.get_legend_handles_labels()[0] for one in axes[: len(names)]]
        points = next((found[1] for found in handles if len(found) > 1), None)
        if points is not None:
            figure.legend([handles[0][0], points], ["trace", f"published ({workload})"], loc="upper right", ncols=2)
    return figure


def _draw_distribution(axes: Axes, name: str, values: np.ndarray, published: Mapping[str, float]) -> None:
    ascending = np.sort(values)
    shares = (np.arange(len(ascending)) + 1) / len(ascending)
    _style(axes)
    axes.step(ascending, shares, where="post", color=_TRACE, lw=1.8, label="trace")
    points = [(value, float(key[1:]) / 100) for key, value in published.items() if key[0] == "p"]
    if points:
        axes.plot(*zip(*points, strict=True), "o", color=_PUBLISHED, ms=6, label="published")
    if name not in _LINEAR:
        _scale(axes, ascending)
    quantity = QUANTITIES[name]
    axes.set_xlabel(f"{quantity.label} [{quantity.unit}]" if quantity.unit else quantity.label)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("share at or below")
    median, mean = float(np.median(values)), float(values.mean())
    text = f"median {format_figure(median)}\nmean {format_figure(mean)}"
    axes.text(0.03, 0.97, text, transform=axes.transAxes, va="top", fontsize=8)


def _scale(axes: Axes, ascending: np.ndarray) -> None:
    """A logarithmic axis for what spans more than a decade."""
    positive = ascending[ascending > 0]
    low = float(np.quantile(positive, _LEAST_SHARE))
    high = float(positive[-1])
    if len(positive) < 0.9 * len(ascending) or high < 20 * low:
        return
    axes.set_xscale("log")
    axes.set_xlim(0.8 * low, 1.25 * high)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 300 * low else (1.0, 3.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _draw_arrivals(axes: Axes, stats: TraceStats) -> None:
    """Arrivals a second over the time of the trace."""
    times_s = np.concatenate([[0.0], np.cumsum(stats.values["arrival_gap_s"])])
    _style(axes)
    axes.set_xlabel("time [s]")
    axes.set_ylabel("arrivals per second")
    if times_s[-1] <= 0.0:
        axes.text(0.5, 0.5, "all at once", ha="center", transform=axes.transAxes)
        return
    bins = int(np.clip(len(times_s) // 20, 5, _RATE_BINS))
    counts, edges = np.histogram(times_s, bins=bins, range=(0.0, times_s[-1]))
    axes.stairs(counts / np.diff(edges), edges, baseline=None, color=_TRACE, lw=1.5)
    axes.set_ylim(bottom=0.0)


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#EBEBEB", lw=0.8)
    axes.set_axisbelow(True)
