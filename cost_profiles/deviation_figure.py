"""Errors of predictions as a picture."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from cost_profiles.deviation import KINDS, Deviation
from cost_profiles.table import format_seconds

# Told apart by the colour-blind too (Okabe and Ito 2008).
_LOOKS = dict(
    zip(
        KINDS,
        zip("osD^v<>", ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D"), strict=True),
        strict=True,
    )
)


def deviation_figure(title: str, found: Sequence[Deviation]) -> Figure:
    """Relative errors over measured seconds, one panel for each of what predicts, on one scale."""
    panels = {
        "from sums of a step, and of copies": [one for one in found if one.model == "sums"],
        "from padded work": [one for one in found if one.model == "padded"],
    }
    panels = {name: some for name, some in panels.items() if some}
    figure = Figure(figsize=(1.5 + 5.0 * len(panels), 4.6), layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (name, some) in zip(all_axes, panels.items(), strict=True):
        _draw(axes, name, some)
    all_axes[0].set_ylabel("error of the prediction (above 0: too slow)")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure


def _draw(axes: Axes, name: str, found: Sequence[Deviation]) -> None:
    for kind, (marker, colour) in _LOOKS.items():
        pairs = [(one.measured_s, one.relative_error) for one in found if one.kind == kind]
        if pairs:
            axes.plot(*zip(*pairs, strict=True), marker, color=colour, mec="white", ms=6, label=kind)
    axes.axhline(0.0, color="#4D4D4D", lw=1)
    axes.axhspan(-0.15, 0.15, color="#EBEBEB", zorder=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_seconds(value).replace(".00", "")))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{error:+.0%}" if error else "0%"))
    axes.set_xlabel("measured")
    axes.set_title(name, fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
