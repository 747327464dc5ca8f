"""How long a stream is likely to stay silent."""

from s2l_jax.core.session import Session

_FIRST_GUESS_S = 1.0
_WEIGHT = 0.05
_LEAST_SHARE = 0.5


class GapEstimator:
    """Learns the time between two events of a stream, from all streams and from each.

    Gaps are long-tailed (published crawls: median 0.7 s, P99 5.3 s), so a stream that has been silent for longer than
    usual is not overdue: the longer it has been silent, the longer it is likely to stay so.
    """

    def __init__(self) -> None:
        self._mean_s = _FIRST_GUESS_S

    def learn(self, gap_s: float) -> None:
        """A stream was silent for this long."""
        self._mean_s += _WEIGHT * (gap_s - self._mean_s)

    def silence_s(self, session: Session, now_s: float) -> float:
        """Seconds until the next event of a stream, as far as one can tell."""
        usual_s = 0.5 * (session.gap_s + self._mean_s) if session.gap_s else self._mean_s
        silent_s = now_s - session.last_event_s
        return max(usual_s - silent_s, _LEAST_SHARE * max(usual_s, silent_s))
