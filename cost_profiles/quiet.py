"""How quiet the machine is: what other processes take of the cores while we measure."""

import os
import time
from pathlib import Path


class ForeignCores:
    """Cores that other processes keep busy, on average since this was made. 0 where the system does not tell."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._busy_s = foreign_busy_s()

    def average(self) -> float:
        """The average so far."""
        return max(0.0, (foreign_busy_s() - self._busy_s) / max(time.monotonic() - self._began_s, 1e-3))


def foreign_busy_s() -> float:
    """Seconds of core time that other processes have taken so far; 0 where the system does not tell.

    Only differences mean something, and the system counts in hundredths of a second.
    """
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") - time.process_time()
