"""Tables and the picture of `fidelity.py`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from s2l_jax.core.costs import StepShape
from workloads.replay.rows import SessionRow
from workloads.replay.summary import distribution
from workloads.report.plots import COLOURS, save_png, style

GOAL = 0.15
STATISTICS = ("mean", "p50", "p95", "p99")
CLOCKS = {"TTFT": "ttft_final_s", "TPOT": "tpot_s"}

Speed = Literal["as profiled", "as checked", "of the run"]
"""What simulated steps take: what the profile says; as long as, and varying like, those of a small load just before and
just after the run; likewise the run's own steps."""


class Prediction(NamedTuple):
    """One statistic, simulated: mean of all repeats, and where 9 of 10 of them lie."""

    mean_s: float
    low_s: float
    high_s: float

    def error(self, engine_s: float) -> float:
        """Relative; above 0 if the simulator is slower."""
        return self.mean_s / engine_s - 1.0


class Figures(NamedTuple):
    """One statistic of one clock; what is simulated is by speed."""

    clock: str
    statistic: str
    engine_s: float
    simulated: Mapping[Speed, Prediction]

    def is_within_goal(self, speed: Speed) -> bool:
        """True if it is predicted as well as is wanted."""
        return abs(self.simulated[speed].error(self.engine_s)) <= GOAL

    def is_a_repeat(self, speed: Speed) -> bool:
        """True if the engine's run might be one of the simulated repeats."""
        return self.simulated[speed].low_s <= self.engine_s <= self.simulated[speed].high_s

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        simulated = {
            speed: {**one._asdict(), "error": one.error(self.engine_s)} for speed, one in self.simulated.items()
        }
        return {"clock": self.clock, "statistic": self.statistic, "engine_s": self.engine_s, "simulated": simulated}


@dataclass(frozen=True)
class Outcome:
    """One load, run through both.

    Attributes:
      load: its name.
      sessions: how many.
      pool_blocks: of the KV pool.
      engine: sessions as their users saw them.
      simulated: the same in each repeat of a simulation, by speed.
      slowness: what steps took together, over what the profile says of them, by speed.
      steps: of the engine: work, seconds by the profile at the run's speed, seconds that it took.
      simulated_steps: how many steps the simulator took.
      foreign_cores: cores that other processes kept busy while the engine ran.
    """

    load: str
    sessions: int
    pool_blocks: int
    engine: Sequence[SessionRow]
    simulated: Mapping[Speed, Sequence[Sequence[SessionRow]]]
    slowness: Mapping[Speed, float]
    steps: Sequence[tuple[StepShape, float, float]]
    simulated_steps: int
    foreign_cores: float

    def figures(self) -> list[Figures]:
        """All statistics of all clocks."""
        found = []
        for clock, column in CLOCKS.items():
            engine = _distribution(self.engine, column)
            simulated = {
                speed: [_distribution(rows, column) for rows in repeats] for speed, repeats in self.simulated.items()
            }
            for name in STATISTICS:
                predicted = {speed: _predict([each[name] for each in repeats]) for speed, repeats in simulated.items()}
                found.append(Figures(clock, name, engine[name], predicted))
        return found

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "load": self.load,
            "sessions": self.sessions,
            "failed": sum(not row.completed for row in self.engine),
            "pool_blocks": self.pool_blocks,
            "foreign_cores": self.foreign_cores,
            "slowness": dict(self.slowness),
            "figures": [figures.to_json() for figures in self.figures()],
            "steps": {kind: errors._asdict() for kind, errors in step_errors(self.steps).items()},
            "engine_steps": len(self.steps),
            "simulated_steps": self.simulated_steps,
            "totals": {name: list(_totals(self, name)) for name in _TOTALS},
        }


class StepErrors(NamedTuple):
    """What the profile says of the engine's own steps of one kind, relative to what they took."""

    count: int
    took_s: float
    total: float
    median: float
    p90: float
    worst: float


_TITLE = "milliseconds, and where 9 of 10 repeats lie; errors beyond 15% are red"
_TOTALS = ("output_tokens", "computed_tokens", "recomputed_tokens", "restored_tokens", "preemptions")


def step_errors(steps: Iterable[tuple[StepShape, float, float]]) -> dict[str, StepErrors]:
    """By kind of step; of the relative errors of single steps median, and 90th percentile and largest of the size."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for shape, predicted_s, took_s in steps:
        if took_s > 0:
            pairs.setdefault(_kind(shape), []).append((predicted_s, took_s))
    found = {}
    for kind, rows in pairs.items():
        predicted_s, took_s = np.array(rows).T
        errors = predicted_s / took_s - 1.0
        found[kind] = StepErrors(
            len(rows),
            float(took_s.sum()),
            float(predicted_s.sum() / took_s.sum() - 1.0),
            float(np.median(errors)),
            float(np.percentile(np.abs(errors), 90)),
            float(np.abs(errors).max()),
        )
    return found


def print_outcome(console: Console, outcome: Outcome) -> None:
    """All tables of one load."""
    speeds = ", ".join(f"{slowness:.2f} {speed}" for speed, slowness in outcome.slowness.items())
    console.print(
        f"{outcome.load}: {outcome.sessions} sessions, pool of {outcome.pool_blocks} blocks, "
        f"{outcome.foreign_cores:.2f} cores busy with other things; steps took, over what the profile says: {speeds}",
        highlight=False,
    )
    table = Table("", "engine", *(f"simulated {speed}" for speed in outcome.simulated), title=_TITLE)
    for figures in outcome.figures():
        cells = (_cell(figures, speed) for speed in outcome.simulated)
        table.add_row(f"{figures.clock} {figures.statistic}", f"{1e3 * figures.engine_s:,.0f} ms", *cells)
    console.print(table)
    console.print("the engine's own steps, as the profile has them at the run's speed", highlight=False)
    steps = Table("step")
    for column in ("count", "took", "total error", "median", "P90", "worst"):
        steps.add_column(column, justify="right")
    for kind, errors in step_errors(outcome.steps).items():
        signed = (f"{error:+.1%}" for error in (errors.total, errors.median))
        steps.add_row(
            kind, str(errors.count), f"{errors.took_s:.1f} s", *signed, f"{errors.p90:.1%}", f"{errors.worst:.1%}"
        )
    console.print(steps)
    totals = ", ".join("{} {:,} and {:,}".format(name.replace("_", " "), *_totals(outcome, name)) for name in _TOTALS)
    console.print(
        f"engine and simulator: steps {len(outcome.steps):,} and {outcome.simulated_steps:,}, {totals}", highlight=False
    )


def verdict(outcomes: Sequence[Outcome]) -> str:
    """In one line."""
    figures = [each for outcome in outcomes for each in outcome.figures()]
    words = []
    for speed in outcomes[0].simulated:
        within = sum(each.is_within_goal(speed) for each in figures)
        worst = max((each.simulated[speed].error(each.engine_s) for each in figures), key=abs)
        words.append(f"{speed} {within} of {len(figures)} within {GOAL:.0%}, the worst {worst:+.1%}")
        if len(outcomes[0].simulated[speed]) > 1:
            words[-1] += f", {sum(each.is_a_repeat(speed) for each in figures)} where repeats lie"
    return "; ".join(words)


def _cell(figures: Figures, speed: Speed) -> str:
    one = figures.simulated[speed]
    colour = "green" if figures.is_within_goal(speed) else "red"
    band = "" if one.low_s == one.high_s else f" ({1e3 * one.low_s:,.0f} to {1e3 * one.high_s:,.0f})"
    return f"{1e3 * one.mean_s:,.0f} [{colour}]{one.error(figures.engine_s):+.1%}[/]{band}"


def _predict(values_s: Sequence[float]) -> Prediction:
    return Prediction(float(np.mean(values_s)), *np.percentile(values_s, [5, 95]).tolist())


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Both distributions of TTFT of each load."""
    figure = Figure(figsize=(4.4 * len(outcomes), 3.8), layout="constrained")
    for axes, outcome in zip(figure.subplots(1, len(outcomes), squeeze=False)[0], outcomes, strict=True):
        style(axes)
        simulated = [
            (f"simulated {speed}", [row for rows in repeats for row in rows])
            for speed, repeats in outcome.simulated.items()
        ]
        for (label, rows), colour, line in zip(
            [("engine", outcome.engine), *simulated], COLOURS, ("-", ":", "-.", "--"), strict=False
        ):
            values_s = np.sort([row.ttft_final_s for row in rows if row.ttft_final_s is not None])
            shares = np.arange(len(values_s) + 1) / len(values_s)
            axes.step(np.append(values_s[:1], values_s), shares, color=colour, ls=line, where="post", lw=2, label=label)
        axes.set_title(outcome.load, fontsize=10, loc="left")
        axes.set_xlabel("TTFT from the last chunk, seconds")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
    figure.axes[0].set_ylabel("share of sessions")
    figure.axes[0].legend(frameon=False, loc="lower right", fontsize=8)
    save_png(figure, path)


def _distribution(rows: Sequence[SessionRow], column: str) -> dict[str, float]:
    return {name: value or 0.0 for name, value in distribution(getattr(row, column) for row in rows).items()}


def _kind(shape: StepShape) -> str:
    if shape.prefill_tokens:
        return "mixed" if shape.decodes else "prefill"
    return "decode" if shape.decodes else "sample"


def _totals(outcome: Outcome, name: str) -> tuple[int, int]:
    return (
        sum(getattr(row, name) for row in outcome.engine),
        sum(getattr(row, name) for row in outcome.simulated["as profiled"][0]),
    )
