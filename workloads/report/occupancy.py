"""Pictures of a simulated engine over time: memory that is held, time that is used."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from workloads.report.plots import colours, style
from workloads.report.run import Run

_BINS = 200


def occupancy_figure(runs: Sequence[Run]) -> Figure:
    """KV blocks held, and share of time in which a step ran, over a run; a curve for each simulated engine."""
    figure = Figure(figsize=(10.5, 4.6), layout="constrained")
    held_axes, busy_axes = figure.subplots(2, 1, sharex=True)
    curves = [
        (
            run.name if name == "engine" else f"{run.name} {name}",
            [step for step in run.steps if step.engine == name],
            about,
        )
        for run in runs
        if run.steps
        for name, about in run.summary["simulation"]["engines"].items()
    ]
    for (label, steps, about), colour in zip(curves, colours(len(curves)), strict=True):
        if not steps:
            continue
        starts_s = np.array([step.start_s for step in steps])
        durations_s = np.array([step.duration_s for step in steps])
        held = np.array([step.held_blocks for step in steps]) / about["kv_blocks"]
        edges_s = np.linspace(0.0, float((starts_s + durations_s).max()), _BINS + 1)
        at_s, peaks = _peaks(starts_s, held, edges_s)
        held_axes.step(at_s, peaks, where="post", color=colour, lw=1.5, label=label)
        busy_s = np.histogram(starts_s, edges_s, weights=durations_s)[0]
        busy_axes.step(edges_s[:-1], np.minimum(1.0, busy_s / np.diff(edges_s)), where="post", color=colour, lw=1.5)
    for axes, label in ((held_axes, "KV held"), (busy_axes, "busy")):
        style(axes)
        axes.set_ylabel(label)
        axes.set_ylim(0.0, 1.05)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    busy_axes.set_xlabel("seconds since the start of the run")
    if len(curves) > 1:
        figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    return figure


def _peaks(at_s: np.ndarray, values: np.ndarray, edges_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The greatest value in each interval that has any, and where the interval begins."""
    bins = np.clip(np.searchsorted(edges_s, at_s, side="right") - 1, 0, len(edges_s) - 2)
    present = np.unique(bins)
    return edges_s[present], np.array([values[bins == number].max() for number in present])
