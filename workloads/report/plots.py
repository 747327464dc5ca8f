"""Pictures of runs: how long users waited, and what happened to each session. Colours are safe for the colour-blind."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from workloads.report.run import Run

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_RETRIEVAL, _WAITING, _ANSWER, _CHUNK = "#D9D9D9", "#D55E00", "#0072B2", "#4D4D4D"
_MAX_TIMELINE_SESSIONS = 60
_CLOCKS = (
    ("ttft_final_s", "after the last piece of context arrived"),
    ("ttft_open_s", "after the question was asked"),
)


def ttft_figure(runs: Sequence[Run]) -> Figure:
    """Share of sessions still waiting for their first token, over time, by both clocks."""
    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    for axes, (column, label) in zip(figure.subplots(1, 2, sharey=True), _CLOCKS, strict=True):
        _draw_ccdf(axes, runs, column)
        axes.set_xlabel(f"seconds {label}")
    figure.axes[0].set_ylabel("sessions still waiting for the first token")
    return figure


def _draw_ccdf(axes: Axes, runs: Sequence[Run], column: str) -> None:
    curves = []
    for run, colour in zip(runs, colours(len(runs)), strict=True):
        values_s = np.sort([value for row in run.sessions if (value := getattr(row, column)) is not None])
        if len(values_s):
            curves.append((run.name, colour, np.maximum(values_s, 1e-4)))
    style(axes)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g}%"))
    if not curves:
        axes.text(0.5, 0.5, "no first token", ha="center", transform=axes.transAxes)
        return
    everything = np.concatenate([values_s for _, _, values_s in curves])
    if everything.max() > 8 * everything.min():
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    for number, (name, colour, values_s) in enumerate(curves):
        waiting = 1.0 - np.arange(len(values_s)) / len(values_s)
        to_s, down_to = np.append(values_s, values_s[-1]), np.append(waiting, waiting[-1] / 2)
        axes.step(to_s, down_to, color=colour, where="pre", lw=2)
        share = 0.5 * 0.6 ** (number // 2)
        at_s = float(np.quantile(values_s, 1.0 - share))
        left = len(curves) > 1 and at_s <= float(np.median(everything))
        axes.annotate(
            f"{name}\nP50 {np.median(values_s):.2f} s",
            (at_s, share),
            xytext=(-8 if left else 8, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            color=colour,
            weight="bold",
            fontsize=9,
        )
    axes.margins(x=0.25)
    axes.set_ylim(top=1.15, bottom=0.45 / max(len(values_s) for _, _, values_s in curves))


def timeline_figure(run: Run, until_s: float) -> Figure:
    """What happened to each session: retrieval with its chunks, the wait for the first token, the answer.

    Args:
      run: whose first sessions are shown.
      until_s: end of the time axis, so that runs can be compared by eye.
    """
    rows = run.sessions[:_MAX_TIMELINE_SESSIONS]
    line_of = {row.session: line for line, row in enumerate(rows)}
    figure = Figure(figsize=(10.5, 1.6 + 0.24 * len(rows)), layout="constrained")
    axes = figure.subplots()
    style(axes)
    axes.grid(axis="y", visible=False)
    for row, line in zip(rows, line_of.values(), strict=True):
        first_s, done_s = row.first_token_s, row.done_s or row.last_chunk_s
        answer_s = done_s if first_s is None else first_s
        axes.barh(line, row.last_chunk_s - row.arrival_s, left=row.arrival_s, height=0.7, color=_RETRIEVAL)
        axes.barh(line, max(answer_s - row.last_chunk_s, 0.0), left=row.last_chunk_s, height=0.7, color=_WAITING)
        if first_s is not None:
            axes.barh(line, done_s - first_s, left=first_s, height=0.7, color=_ANSWER)
        if row.error:
            axes.plot(done_s, line, "x", color="black", ms=6)
    chunks = [event for event in run.events if event.kind == "chunk" and event.session in line_of]
    at_s, lines = [event.t_s for event in chunks], [line_of[event.session] for event in chunks]
    axes.plot(at_s, lines, "|", color=_CHUNK, ms=7, mew=1.2)
    axes.set_yticks(range(len(rows)), [_shorten(row.question or row.session) for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0.0, until_s)
    axes.set_xlabel("seconds since the start of the run")
    if len(rows) < len(run.sessions):
        axes.set_title(f"first {len(rows)} of {len(run.sessions)} sessions", fontsize=9, loc="left")
    legend = [
        Patch(color=_RETRIEVAL, label="retrieval"),
        Line2D([], [], color=_CHUNK, marker="|", ls="", label="a piece of context arrives"),
        Patch(color=_WAITING, label="user waits for the first token (TTFT)"),
        Patch(color=_ANSWER, label="answer is written"),
    ]
    figure.legend(handles=legend, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    return figure


def timelines_end_s(runs: Sequence[Run]) -> float:
    """When the last session that timelines show has ended in all runs."""
    ends_s = (row.done_s or row.last_chunk_s for run in runs for row in run.sessions[:_MAX_TIMELINE_SESSIONS])
    return 1.01 * max(ends_s, default=1.0)


def save_png(figure: Figure, path: Path) -> None:
    """Writes a picture for README and chat."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def inline_svg(figure: Figure) -> str:
    """The picture as an `<svg>` element to put into a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def colours(count: int) -> list[str]:
    """Colours for so many curves."""
    return [COLOURS[number % len(COLOURS)] for number in range(count)]


def _shorten(text: str, width: int = 44) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def style(axes: Axes) -> None:
    """Light grid, no frame."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#EBEBEB", lw=0.8)
    axes.set_axisbelow(True)
