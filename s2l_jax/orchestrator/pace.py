"""When, within a step, the next one is to be planned."""

import time
from collections.abc import Callable

LEAD_SHARE = 0.3
LONGEST_LEAD_S = 0.03
_NEWEST_SHARE = 0.25
_LOOKS = 8  # few, since on a CPU each look takes time from the step itself
_SHORTEST_PAUSE_S = 0.0002
_LONGEST_LATE_PAUSE_S = 0.004  # in the second half, where steps do end: what an end unseen may cost


class Pace:
    """Waits in a step until it is late, but not too late, for planning the next one.

    What is planned early misses the events that come meanwhile; what is planned after the step leaves the device idle
    until it is handed over. So planning begins when the last 30 % of the step's predicted time are left, and no more
    than 30 ms, which is several times what planning and handing over take on two busy cores. Predictions are corrected
    by how long recent steps took in proportion to theirs: a cost model of another machine does no harm.

    Only the engine thread uses it. Time must be real time, for it is the device's.
    """

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._correction = 1.0
        self._started_s = 0.0
        self._predicted_s = 0.0

    def start(self, predicted_s: float) -> None:
        """The device begins with a step now."""
        self._started_s = self._clock()
        self._predicted_s = predicted_s

    def hold(self, is_ready: Callable[[], bool]) -> None:
        """Returns when the next step should be planned, or when the step turns out to be over."""
        expected_s = self._correction * self._predicted_s
        held_s = expected_s - min(LEAD_SHARE * expected_s, LONGEST_LEAD_S)
        long_s = max(expected_s / _LOOKS, _SHORTEST_PAUSE_S)
        short_s = min(long_s, _LONGEST_LATE_PAUSE_S)
        due_s = self._started_s + held_s
        while (left_s := due_s - self._clock()) > 0 and not is_ready():
            self._sleep(min(left_s, long_s if left_s > held_s / 2 else short_s))

    def end(self) -> None:
        """The step is over now."""
        if self._predicted_s > 0:
            took = (self._clock() - self._started_s) / self._predicted_s
            self._correction += _NEWEST_SHARE * (took - self._correction)
