"""How quiet the machine is: what other processes take of the cores while we measure."""

import os
import time
from pathlib import Path


class ForeignCores:
    """Cores that other processes keep busy, on average since this was made. 0 where the system does not tell."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._busy_s = _busy_s() - _own_s()

    def average(self) -> float:
        """The average so far."""
        return max(0.0, (_busy_s() - _own_s() - self._busy_s) / max(time.monotonic() - self._began_s, 1e-3))


def _busy_s() -> float:
    """Seconds that all cores were not idle since the machine started."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return _own_s()
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    times = os.times()
    return times.user + times.system
