"""How soon a place becomes free."""

from collections import deque

_WINDOW = 64
_MIN_HINT_S = 0.05
_MAX_HINT_S = 60.0


class CompletionRate:
    """Estimates the time to the next end of a session from the recent ones.

    Args:
      default_s: the estimate until two sessions have ended.
    """

    def __init__(self, default_s: float) -> None:
        self._default_s = default_s
        self._ends_s: deque[float] = deque(maxlen=_WINDOW)

    def record(self, now_s: float) -> None:
        """A session has ended."""
        self._ends_s.append(now_s)

    def retry_after_s(self, now_s: float) -> float:
        """Seconds after which trying again is sensible."""
        if len(self._ends_s) < 2:
            return self._default_s
        mean_gap_s = (now_s - self._ends_s[0]) / (len(self._ends_s) - 1)
        return min(max(mean_gap_s, _MIN_HINT_S), _MAX_HINT_S)
