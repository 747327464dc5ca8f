"""Tables and the picture of `fidelity.py`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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


class Figures(NamedTuple):
    """One statistic of one clock."""

    clock: str
    statistic: str
    engine_s: float
    simulated_s: float
    at_speed_s: float

    @property
    def error(self) -> float:
        """Relative; above 0 if the simulator is slower."""
        return self.simulated_s / self.engine_s - 1.0

    @property
    def error_at_speed(self) -> float:
        """The same at the run's speed."""
        return self.at_speed_s / self.engine_s - 1.0


@dataclass(frozen=True)
class Outcome:
    """One load, run through both.

    Attributes:
      load: its name.
      sessions: how many.
      pool_blocks: of the KV pool.
      engine: sessions as their users saw them.
      simulated: the same, simulated.
      slowness: what the engine's steps took together, over what the profile says of them.
      at_speed: as `simulated`, all steps multiplied by that.
      steps: of the engine: work, seconds by the profile at that speed, seconds that it took.
      simulated_steps: how many steps the simulator took.
      foreign_cores: cores that other processes kept busy while the engine ran.
    """

    load: str
    sessions: int
    pool_blocks: int
    engine: Sequence[SessionRow]
    simulated: Sequence[SessionRow]
    slowness: float
    at_speed: Sequence[SessionRow]
    steps: Sequence[tuple[StepShape, float, float]]
    simulated_steps: int
    foreign_cores: float

    def figures(self) -> list[Figures]:
        """All statistics of all clocks."""
        found = []
        for clock, column in CLOCKS.items():
            engine, simulated = _distribution(self.engine, column), _distribution(self.simulated, column)
            at_speed = _distribution(self.at_speed, column)
            found += [Figures(clock, name, engine[name], simulated[name], at_speed[name]) for name in STATISTICS]
        return found

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "load": self.load,
            "sessions": self.sessions,
            "failed": sum(not row.completed for row in self.engine),
            "pool_blocks": self.pool_blocks,
            "foreign_cores": self.foreign_cores,
            "slowness": self.slowness,
            "figures": [
                {**figures._asdict(), "error": figures.error, "error_at_speed": figures.error_at_speed}
                for figures in self.figures()
            ],
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
    console.print(
        f"{outcome.load}: {outcome.sessions} sessions, pool of {outcome.pool_blocks} blocks, "
        f"{outcome.foreign_cores:.2f} cores busy with other things, steps took {outcome.slowness:.2f} times what the "
        "profile says",
        highlight=False,
    )
    table = Table("")
    for column in ("engine", "simulated", "error", "at the run's speed", "error", f"within {GOAL:.0%}"):
        table.add_column(column, justify="right")
    for figures in outcome.figures():
        table.add_row(
            f"{figures.clock} {figures.statistic}",
            f"{1e3 * figures.engine_s:,.1f} ms",
            f"{1e3 * figures.simulated_s:,.1f} ms",
            f"{figures.error:+.1%}",
            f"{1e3 * figures.at_speed_s:,.1f} ms",
            f"{figures.error_at_speed:+.1%}",
            " and ".join("yes" if abs(error) <= GOAL else "no" for error in (figures.error, figures.error_at_speed)),
            style=None if abs(figures.error_at_speed) <= GOAL else "red",
        )
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
    for how, errors in (
        ("with the profile as it is", [each.error for each in figures]),
        ("at the run's speed", [each.error_at_speed for each in figures]),
    ):
        within = sum(abs(error) <= GOAL for error in errors)
        words.append(f"{how} {within} of {len(errors)} within {GOAL:.0%}, the worst {max(errors, key=abs):+.1%}")
    return "; ".join(words)


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Both distributions of TTFT of each load."""
    figure = Figure(figsize=(4.4 * len(outcomes), 3.8), layout="constrained")
    for axes, outcome in zip(figure.subplots(1, len(outcomes), squeeze=False)[0], outcomes, strict=True):
        style(axes)
        for label, rows, colour, line in (
            ("engine", outcome.engine, COLOURS[0], "-"),
            ("simulated", outcome.simulated, COLOURS[1], ":"),
            ("simulated at the run's speed", outcome.at_speed, COLOURS[2], "--"),
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
        sum(getattr(row, name) for row in outcome.simulated),
    )
