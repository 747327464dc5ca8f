"""Times trials on a machine that may be busy with other things, in rounds and in random order.

A trial is run again and again for a short while, a *window*; what counts of a window is its median, and how many cores
other processes kept busy meanwhile. Windows of one trial are spread over the rounds, so that a drift of the machine
spreads over all trials. A trial is done when it has enough quiet windows. If time runs out before that, its quietest
windows count, and the result says how quiet they were.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from cost_profiles.quiet import foreign_busy_s
from cost_profiles.trial import Clock, Trial
from s2l_jax.core.errors import InvalidArgument
from s2l_jax.engine.protocol import Engine

WINDOW_S = 0.4  # the system counts the time of other processes in hundredths of a second
QUIET_CORES = 0.1
_LEAST_RUNS = 3  # of a window: a median wants three

OnWindow = Callable[[int, int, float], None]
"""Called after each window as `on_window(done, total, foreign_cores)`, counting quiet windows."""


class Window(NamedTuple):
    """One window of a trial.

    Attributes:
      seconds: median of its runs.
      foreign_cores: cores that other processes kept busy meanwhile.
    """

    seconds: float
    foreign_cores: float


@dataclass(slots=True)
class Timed:
    """A trial and its windows.

    Attributes:
      trial: what was run.
      windows: in order of time.
    """

    trial: Trial
    windows: list[Window] = field(default_factory=list)

    @property
    def quiet(self) -> int:
        """How many windows were quiet."""
        return sum(window.foreign_cores <= QUIET_CORES for window in self.windows)

    def counted(self, repeats: int) -> list[Window]:
        """The quiet windows; if there are fewer than `repeats`, the quietest ones."""
        by_noise = sorted(self.windows, key=lambda window: window.foreign_cores)
        return by_noise[: max(repeats, self.quiet)]

    def seconds(self, repeats: int) -> float:
        """Median of the windows that count."""
        return statistics.median(window.seconds for window in self.counted(repeats))

    def spread(self, repeats: int) -> float:
        """Largest of these windows over the least, less 1."""
        seconds = [window.seconds for window in self.counted(repeats)]
        return max(seconds) / min(seconds) - 1.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to measure.

    Attributes:
      repeats: quiet windows that each trial should have.
      budget_s: when to stop in any case; every trial gets one window.
      seed: of the order.

    Raises:
      InvalidArgument: a value is out of range.
    """

    repeats: int = 5
    budget_s: float = 600.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.repeats < 1 or not self.budget_s >= 0:
            raise InvalidArgument(
                f"{self.repeats} repeats in {self.budget_s} s: there must be one repeat or more, and time must not be "
                "negative"
            )


def run_rounds(
    engine: Engine,
    trials: Sequence[Trial],
    pace: Pace,
    on_window: OnWindow | None = None,
    *,
    now: Clock = time.perf_counter,
    foreign_s: Clock = foreign_busy_s,
) -> list[Timed]:
    """Times trials, after one round that is not timed. To be called by the engine's owner.

    Args:
      engine: after `warmup`, without a session.
      trials: what to time.
      pace: how long.
      on_window: told how far it is.
      now: clock in seconds.
      foreign_s: core time of other processes so far.

    Raises:
      InternalError: a step failed.
    """
    for trial in trials:
        trial.run(engine, now)
    timed = [Timed(trial) for trial in trials]
    rng = np.random.default_rng(pace.seed)
    end_s = now() + pace.budget_s
    while pending := [one for one in timed if one.quiet < pace.repeats]:
        for index in rng.permutation(len(pending)).tolist():
            one = pending[index]
            if one.windows and now() >= end_s:
                continue
            one.windows.append(_window(engine, one.trial, now, foreign_s))
            if on_window is not None:
                done = sum(min(each.quiet, pace.repeats) for each in timed)
                on_window(done, len(timed) * pace.repeats, one.windows[-1].foreign_cores)
        if now() >= end_s:
            break
    return timed


def _window(engine: Engine, trial: Trial, now: Clock, foreign_s: Clock) -> Window:
    busy_s, began_s = foreign_s(), now()
    runs: list[float] = []
    while len(runs) < _LEAST_RUNS or now() - began_s < WINDOW_S:
        runs.append(trial.run(engine, now))
    foreign_cores = max(0.0, (foreign_s() - busy_s) / max(now() - began_s, 1e-9))
    return Window(statistics.median(runs), foreign_cores)
