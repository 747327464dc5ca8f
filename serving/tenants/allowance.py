"""So much per minute."""


class Allowance:
    """A budget that grows evenly and is paid from after the fact, so that it may be overdrawn, by one purchase.

    What is not used is kept, up to a minute's worth. Not thread-safe.

    Args:
      per_minute: what there is to spend in a minute, at least 1.
      now_s: the time; the budget starts full.
    """

    def __init__(self, per_minute: int, now_s: float) -> None:
        self.per_minute = per_minute
        self._left = float(per_minute)
        self._then_s = now_s

    def wait_s(self, now_s: float) -> float:
        """Seconds until something may be bought, 0 if it may be now."""
        self._grow(now_s)
        return max(0.0, (1.0 - self._left) * 60.0 / self.per_minute)

    def spend(self, amount: float, now_s: float) -> None:
        """Takes from the budget, also what is not in it."""
        self._grow(now_s)
        self._left -= amount

    def _grow(self, now_s: float) -> None:
        self._left = min(self.per_minute, self._left + (now_s - self._then_s) * self.per_minute / 60.0)
        self._then_s = now_s
