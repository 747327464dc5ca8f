"""Tables and the picture of `pressure.py`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from pressure_steps import Prediction
from rich.console import Console
from rich.table import Table

from workloads.report.plots import COLOURS, save_png

PERCENTILES = ("p50", "p95", "p99")


def ratio(value_s: float | None, base_s: float | None) -> str:
    """How much sooner than the base: above 1 is better."""
    return f"{base_s / value_s:.2f}" if value_s and base_s else ""


def ttft_table(title: str, cells: Sequence[dict[str, Any]]) -> Table:
    """TTFT after the last chunk of all runs of one load; ratios are to the first, which waits.

    `others` is how many cores other processes kept busy meanwhile: figures want it near 0.
    """
    table = Table(title=title, title_justify="left")
    for column in ("mode", "policy", "preemption"):
        table.add_column(column)
    for column in ("P50 s", "P95 s", "P99 s", "mean s", "x P50", "x P95", "x P99"):
        table.add_column(column, justify="right")
    for column in ("swap", "rec.", "drop", "computed", "recomp.", "restored", "reused", "invalid.", "others"):
        table.add_column(column, justify="right")
    base = cells[0]["summary"]["ttft_final_s"]
    for cell in cells:
        summary = cell["summary"]
        ttft = summary["ttft_final_s"]
        table.add_row(
            cell["mode"],
            cell["policy"],
            cell["preemption"],
            *("" if ttft[name] is None else f"{ttft[name]:.3f}" for name in (*PERCENTILES, "mean")),
            *(ratio(ttft[name], base[name]) for name in PERCENTILES),
            *(str(summary["preemptions"][kind]) for kind in ("swap", "recompute", "drop")),
            *(
                str(summary[f"tokens_{kind}"])
                for kind in ("computed", "recomputed", "restored", "reused", "invalidated")
            ),
            f"{summary['foreign_cores']:.2f}",
            style="red" if summary["failed"] else None,
        )
    return table


def verdicts(cells: Sequence[dict[str, Any]]) -> list[str]:
    """Whether the default keeps its promises on one load: sooner than waiting, and than naive streaming at P99."""
    found = {(cell["mode"], cell["policy"], cell["preemption"]): cell["summary"]["ttft_final_s"] for cell in cells}
    ours = found.get(("stream", "s2l", "auto"))
    lines = []
    for (mode, policy, preemption), theirs in found.items():
        if ours is None or theirs is ours or (mode, policy) not in (("wait", policy), ("stream", "default_vllm")):
            continue
        ratios = [theirs[name] / ours[name] for name in PERCENTILES if ours[name] and theirs[name]]
        judged = ratios if mode == "wait" else ratios[-1:]
        word = "holds" if ratios and min(judged) >= 1 else "FAILS"
        text = ", ".join(f"{name.upper()} {value:.2f}x" for name, value in zip(PERCENTILES, ratios, strict=False))
        lines.append(f"{word}: s2l streaming against {mode} {policy} {preemption}: {text}")
    return lines


def prediction_table(predictions: Sequence[tuple[str, Prediction]]) -> Table:
    """Predicted against actual seconds, for each run and kind of work."""
    table = Table(title="predicted and actual seconds of steps and copies", title_justify="left")
    table.add_column("run")
    table.add_column("work")
    for column in ("steps", "predicted s", "actual s", "actual / predicted: P10", "P50", "P90"):
        table.add_column(column, justify="right")
    for name, row in predictions:
        ratios = (f"{value:.2f}" for value in (row.p10_ratio, row.median_ratio, row.p90_ratio))
        table.add_row(name, row.work, str(row.count), f"{row.predicted_s:.2f}", f"{row.actual_s:.2f}", *ratios)
    return table


def draw(loads: dict[str, Sequence[dict[str, Any]]], path: Path) -> None:
    """P50, P95 and P99 of each run, one panel a load."""
    rows = max(len(cells) for cells in loads.values())
    figure = Figure(figsize=(10.5, 1.6 + 0.36 * rows), layout="constrained")
    panels = figure.subplots(1, len(loads), squeeze=False)[0]
    for axes, (name, cells) in zip(panels, loads.items(), strict=True):
        for line, cell in enumerate(cells):
            ttft = cell["summary"]["ttft_final_s"]
            values = [ttft[percentile] for percentile in PERCENTILES]
            if None in values:
                continue
            colour = COLOURS[1] if cell["mode"] == "wait" else COLOURS[0 if cell["policy"] == "s2l" else 2]
            axes.plot(values[::2], [line, line], color=colour, lw=1.5, alpha=0.5)
            for value, marker in zip(values, "osD", strict=True):
                axes.plot(value, line, marker, color=colour, ms=6)
        labels = [f"{cell['mode']} {cell['policy']} {cell['preemption']}" for cell in cells]
        axes.set_yticks(range(len(cells)), labels, fontsize=8)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", which="both", color="#EBEBEB", lw=0.8)
        axes.set_xlabel("seconds from the last chunk to the first token")
        axes.set_title(name, fontsize=9, loc="left")
    legend = [
        Line2D([], [], color="black", marker=marker, ls="", label=name.upper())
        for marker, name in zip("osD", PERCENTILES, strict=True)
    ]
    figure.legend(handles=legend, loc="outside upper right", ncols=3, frameon=False, fontsize=9)
    save_png(figure, path)


def print_all(console: Console, name: str, cells: Sequence[dict[str, Any]]) -> None:
    """The table of one load and what it says of the promises."""
    console.print(ttft_table(name, cells))
    for line in verdicts(cells):
        console.print(line, style="red" if line.startswith("FAILS") else "green", highlight=False)
