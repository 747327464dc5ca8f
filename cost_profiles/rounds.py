"""Times trials on a machine that may be busy with other things, in rounds and in random order.

A trial is run again and again for a short while, a *window*; what counts of a window is its median, and how many cores
other processes kept busy meanwhile. Windows of one trial are spread over the rounds, so that a drift of the machine
spreads over all trials. A trial is done when it has enough quiet windows. After a window that was not quiet we wait
until others are, for half of the time that there is. If time runs out, the quietest windows count, and the result says
how quiet they were.
"""

import math
import statistics
import threading
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
_LOOK_S = 0.5  # how long we look whether others have become quiet
_WAIT_SHARE = 0.5  # of the time, that may go into waiting
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

    repeats: int = 3
    budget_s: float = 600.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.repeats < 1 or not self.budget_s >= 0:
            raise InvalidArgument(
                f"{self.repeats} repeats in {self.budget_s} s: there must be one repeat or more, and time must not be "
                "negative"
            )


@dataclass(frozen=True, slots=True)
class Watch:
    """How time passes; what is not the system's is for tests.

    Attributes:
      now: seconds, rising.
      sleep: waits for so many seconds.
      foreign_s: core time of other processes so far, in seconds.
    """

    now: Clock = time.perf_counter
    sleep: Callable[[float], None] = time.sleep
    foreign_s: Clock = foreign_busy_s


def run_rounds(
    engine: Engine,
    trials: Sequence[Trial],
    pace: Pace,
    on_window: OnWindow | None = None,
    stop: threading.Event | None = None,
    watch: Watch | None = None,
) -> list[Timed]:
    """Times trials, after one round that is not timed. To be called by the engine's owner.

    Args:
      engine: after `warmup`, without a session.
      trials: what to time.
      pace: how long.
      on_window: told how far it is.
      stop: set it to end soon, with what there is.
      watch: how time passes.

    Raises:
      InternalError: a step failed.
    """
    return _Rounds(engine, trials, pace, on_window, stop or threading.Event(), watch or Watch()).run()


class _Rounds:
    def __init__(
        self,
        engine: Engine,
        trials: Sequence[Trial],
        pace: Pace,
        on_window: OnWindow | None,
        stop: threading.Event,
        watch: Watch,
    ) -> None:
        self._engine = engine
        self._timed = [Timed(trial) for trial in trials]
        self._pace = pace
        self._on_window = on_window
        self._stop = stop
        self._watch = watch
        self._wait_left_s = _WAIT_SHARE * pace.budget_s

    def run(self) -> list[Timed]:
        for timed in self._timed:
            timed.trial.run(self._engine, self._watch.now)
        rng = np.random.default_rng(self._pace.seed)
        end_s = self._watch.now() + self._pace.budget_s
        while pending := [timed for timed in self._timed if timed.quiet < self._pace.repeats]:
            for index in rng.permutation(len(pending)).tolist():
                is_late = self._watch.now() >= end_s
                if self._stop.is_set():
                    return self._timed
                if not (is_late and pending[index].windows):
                    self._time(pending[index], may_wait=not is_late)
            if self._watch.now() >= end_s:
                break
        return self._timed

    def _time(self, timed: Timed, *, may_wait: bool) -> None:
        """One window of a trial; waits for quiet if it was not."""
        watch = self._watch
        busy_s, began_s = watch.foreign_s(), watch.now()
        runs: list[float] = []
        while len(runs) < _LEAST_RUNS or watch.now() - began_s < WINDOW_S:
            runs.append(timed.trial.run(self._engine, watch.now))
        window = Window(statistics.median(runs), self._foreign_cores(busy_s, began_s))
        timed.windows.append(window)
        if self._on_window is not None:
            repeats = self._pace.repeats
            done = sum(min(each.quiet, repeats) for each in self._timed)
            self._on_window(done, len(self._timed) * repeats, window.foreign_cores)
        if may_wait and window.foreign_cores > QUIET_CORES:
            self._await_quiet()

    def _await_quiet(self) -> None:
        foreign_cores = math.inf
        while foreign_cores > QUIET_CORES and self._wait_left_s > 0 and not self._stop.is_set():
            busy_s, began_s = self._watch.foreign_s(), self._watch.now()
            self._watch.sleep(_LOOK_S)
            foreign_cores = self._foreign_cores(busy_s, began_s)
            self._wait_left_s -= self._watch.now() - began_s

    def _foreign_cores(self, busy_s: float, began_s: float) -> float:
        """Cores that other processes have kept busy since then."""
        return max(0.0, (self._watch.foreign_s() - busy_s) / max(self._watch.now() - began_s, 1e-9))
