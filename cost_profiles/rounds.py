"""Times trials on a machine that may be busy with other things, in rounds and in random order.

Each round runs every trial once, so that a drift of the machine spreads over all trials, and so that a trial follows
another one each time, as steps of a server do: one that follows itself finds its memory in place, and is up to a fifth
faster where it is short. The system says how many cores other processes keep busy only over some time, so runs are
judged by *windows*: all runs of a window are quiet or none is. A trial is done when it has enough quiet runs. After a
window that was not quiet we wait until others are, for half of the time that there is. If time runs out, the quietest
runs count, and the result says how quiet they were.
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

OnWindow = Callable[[int, int, float], None]
"""Called after each window as `on_window(done, total, foreign_cores)`, counting quiet runs."""


class Run(NamedTuple):
    """One run of a trial.

    Attributes:
      seconds: what it took.
      foreign_cores: cores that other processes kept busy in its window.
    """

    seconds: float
    foreign_cores: float


@dataclass(slots=True)
class Timed:
    """A trial and its runs.

    Attributes:
      trial: what was run.
      runs: in order of time.
    """

    trial: Trial
    runs: list[Run] = field(default_factory=list)

    @property
    def quiet(self) -> int:
        """How many runs were quiet."""
        return sum(run.foreign_cores <= QUIET_CORES for run in self.runs)

    def counted(self, repeats: int) -> list[Run]:
        """The quiet runs; if there are fewer than `repeats`, the quietest ones."""
        by_noise = sorted(self.runs, key=lambda run: run.foreign_cores)
        return by_noise[: max(repeats, self.quiet)]

    def seconds(self, repeats: int) -> float:
        """Median of the runs that count."""
        return statistics.median(run.seconds for run in self.counted(repeats))

    def spread(self, repeats: int) -> float:
        """How far the middle half of these runs reaches, relative to their median."""
        low_s, middle_s, high_s = np.percentile([run.seconds for run in self.counted(repeats)], [25, 50, 75]).tolist()
        return (high_s - low_s) / middle_s


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to measure.

    Attributes:
      repeats: quiet runs that each trial should have.
      budget_s: when to stop in any case; every trial gets one run.
      seed: of the order.

    Raises:
      InvalidArgument: a value is out of range.
    """

    repeats: int = 9
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
        self._open_window()
        end_s = self._watch.now() + self._pace.budget_s
        while pending := [timed for timed in self._timed if timed.quiet < self._pace.repeats]:
            for index in rng.permutation(len(pending)).tolist():
                is_late = self._watch.now() >= end_s
                if self._stop.is_set():
                    break
                if not (is_late and pending[index].runs):
                    self._time(pending[index], may_wait=not is_late)
            if self._stop.is_set() or self._watch.now() >= end_s:
                break
        self._close_window()
        return self._timed

    def _time(self, timed: Timed, *, may_wait: bool) -> None:
        """One run of a trial; if it ends a window that was not quiet, waits for quiet."""
        self._window.append((timed, timed.trial.run(self._engine, self._watch.now)))
        if self._watch.now() - self._began_s < WINDOW_S:
            return
        foreign_cores = self._close_window()
        if self._on_window is not None:
            repeats = self._pace.repeats
            done = sum(min(each.quiet, repeats) for each in self._timed)
            self._on_window(done, len(self._timed) * repeats, foreign_cores)
        if may_wait and foreign_cores > QUIET_CORES:
            self._await_quiet()
        self._open_window()

    def _open_window(self) -> None:
        self._window: list[tuple[Timed, float]] = []
        self._busy_s, self._began_s = self._watch.foreign_s(), self._watch.now()

    def _close_window(self) -> float:
        """Notes the window's runs; returns how many cores others kept busy."""
        foreign_cores = self._foreign_cores(self._busy_s, self._began_s)
        for timed, seconds in self._window:
            timed.runs.append(Run(seconds, foreign_cores))
        return foreign_cores

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
