"""A profile as a picture: recomputing against swapping, and how far the costs stay from what was measured."""

from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from cost_profiles.comparison import Comparison, Stretch, compare, crossovers, describe
from cost_profiles.profile import Profile
from cost_profiles.table import format_seconds, provenance
from s2l_jax.core.costs import StepShape

# Told apart by the colour-blind too (Okabe and Ito 2008).
_RECOMPUTE, _SWAP, _GREEN, _PURPLE, _ORANGE = "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00"
_MARK = "#4D4D4D"
_SAME_CONTEXT_TOKENS = 1.0

Error = tuple[float, float]


def profile_figure(profile: Profile, context: int = 0) -> Figure:
    """Both curves on logarithmic axes; beside them relative errors, if there are points or residuals.

    Args:
      profile: what is drawn.
      context: tokens before those that are brought back.

    Raises:
      InvalidArgument: no block fits behind the context.
    """
    errors = {kind: pairs for kind, pairs in _errors(profile).items() if pairs}
    figure = Figure(figsize=(11.5 if errors else 7.5, 4.8), layout="constrained")
    axes = figure.subplots(1, 2 if errors else 1, squeeze=False, width_ratios=(3, 2) if errors else None)[0]
    _draw_comparison(axes[0], profile, compare(profile, context))
    if errors:
        _draw_errors(axes[1], errors)
    figure.suptitle(f"{profile.name}  ({provenance(profile)})", fontsize=11, x=0.01, ha="left")
    return figure


def _draw_comparison(axes: Axes, profile: Profile, comparison: Comparison) -> None:
    _style(axes)
    tokens = [row.tokens for row in comparison.rows]
    axes.plot(tokens, [row.recompute_s for row in comparison.rows], color=_RECOMPUTE, lw=2, label="recompute")
    shared_label = "recompute, in a step that runs anyway"
    axes.plot(tokens, [row.shared_s for row in comparison.rows], "--", color=_RECOMPUTE, lw=1.3, label=shared_label)
    axes.plot(tokens, [row.swap_s for row in comparison.rows], color=_SWAP, lw=2, label="swap out and in")
    _draw_points(axes, _measured_recomputes(profile, comparison.context), _RECOMPUTE, "recompute, measured")
    _draw_points(axes, _measured_swaps(profile), _SWAP, "swap out and in, measured")
    _draw_crossovers(axes, comparison.own, "-", 0.02)
    _draw_crossovers(axes, comparison.shared, "--", 0.07)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    least_s = min(min(row.shared_s, row.swap_s) for row in comparison.rows)
    if least_s > 0:
        axes.set_ylim(bottom=least_s / 4)  # room for the labels of crossovers
    axes.xaxis.set_major_locator(LogLocator(base=4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _power_of_ten(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("tokens to bring back" + (f" behind {comparison.context:,}" if comparison.context else ""))
    title = (
        f"cheaper: {describe(comparison.own)}\nrecomputing in a step that runs anyway: {describe(comparison.shared)}"
    )
    axes.set_title(title, fontsize=9, loc="left")
    axes.legend(fontsize=8, framealpha=1.0, edgecolor="none", loc="upper left")


def _draw_crossovers(axes: Axes, stretches: Sequence[Stretch], line: str, height: float) -> None:
    """The line's style is that of the curve which crosses."""
    for tokens in crossovers(stretches):
        axes.axvline(tokens, color=_MARK, lw=0.8, ls=line)
        text = f" {tokens:,} tokens"
        axes.text(tokens, height, text, color=_MARK, fontsize=8, transform=axes.get_xaxis_transform())


def _draw_points(axes: Axes, points: list[tuple[float, float]], colour: str, label: str) -> None:
    if points:
        axes.plot(*zip(*sorted(points), strict=True), "o", color=colour, mec="white", ms=6, label=label)


def _draw_errors(axes: Axes, errors: dict[str, list[Error]]) -> None:
    _style(axes)
    looks = zip("os^vDP", (_RECOMPUTE, _GREEN, _SWAP, _PURPLE, _ORANGE, _MARK), strict=True)
    for (kind, pairs), (marker, colour) in zip(errors.items(), looks, strict=False):
        axes.plot(*zip(*pairs, strict=True), marker, color=colour, mec="white", ms=6, label=kind)
    axes.axhline(0.0, color=_MARK, lw=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _power_of_ten(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 * error:+.3g}%" if error else "0%"))
    largest = max(abs(error) for pairs in errors.values() for _, error in pairs)
    axes.set_ylim(-1.25 * max(largest, 0.01), 1.25 * max(largest, 0.01))
    axes.set_xlabel("measured or published")
    axes.set_title("error of the costs (above 0: too slow)", fontsize=9, loc="left")
    axes.legend(fontsize=8, frameon=False, loc="best")


def _errors(profile: Profile) -> dict[str, list[Error]]:
    """Relative errors by kind, each with the seconds that were expected."""
    costs = profile.costs
    copies = {"swap out": costs.swap_out, "swap in": costs.swap_in, "hand-off": costs.handoff}
    errors: dict[str, list[Error]] = {kind: [] for kind in ("prefill", "decode", *copies, "calibration")}
    for step in profile.steps:
        kind = "decode" if step.shape.decodes else "prefill"
        errors[kind].append((step.seconds, costs.step(step.shape) / step.seconds - 1.0))
    for copy in profile.copies:
        kind = {"swap_out": "swap out", "swap_in": "swap in", "handoff": "hand-off"}[copy.kind]
        errors[kind].append((copy.seconds, copies[kind](copy.blocks) / copy.seconds - 1.0))
    errors["calibration"] = [(row.expected_s, row.relative_error) for row in profile.residuals]
    return errors


def _measured_recomputes(profile: Profile, context: int) -> list[tuple[float, float]]:
    """Tokens and seconds of measured prefills behind this context."""
    prefills = (step for step in profile.steps if step.shape.prefill_tokens and not step.shape.decodes)
    return [
        (step.shape.prefill_tokens, step.seconds)
        for step in prefills
        if abs(_context_tokens(step.shape) - context) <= _SAME_CONTEXT_TOKENS
    ]


def _context_tokens(shape: StepShape) -> float:
    """The context of a step of one chunk."""
    return shape.attended_tokens / shape.prefill_tokens - shape.prefill_tokens / 2


def _measured_swaps(profile: Profile) -> list[tuple[float, float]]:
    """Tokens and seconds of copies that were measured in both directions."""

    def seconds(kind: str) -> dict[int, float]:
        return {copy.blocks: copy.seconds for copy in profile.copies if copy.kind == kind}

    out_s, in_s = seconds("swap_out"), seconds("swap_in")
    both: Iterable[int] = out_s.keys() & in_s.keys()
    return [(blocks * profile.memory.block_tokens, out_s[blocks] + in_s[blocks]) for blocks in both]


def _power_of_ten(seconds: float) -> str:
    """A tick's label, without digits that say nothing."""
    number, unit = format_seconds(seconds).split()
    return f"{float(number.replace(',', '')):g} {unit}"


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#EBEBEB", lw=0.8)
    axes.set_axisbelow(True)
