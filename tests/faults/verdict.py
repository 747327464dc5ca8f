"""How a script says what it found: a line for each case as it comes, and a verdict at the end."""

import sys
import time


class Verdict:
    """Counts cases.

    Args:
      total: how many there will be.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._begin_s = time.monotonic()
        self._lines: list[str] = []
        self.failed: list[str] = []

    def case(self, name: str, text: str, is_good: bool) -> None:
        """One is done."""
        self._lines.append(name)
        if not is_good:
            self.failed.append(f"{name}: {text}")
        passed_s = time.monotonic() - self._begin_s
        sign = "ok  " if is_good else "FAIL"
        print(f"{passed_s:6.1f} s  [{len(self._lines)}/{self._total}] {sign} {name}: {text}", flush=True)

    def say(self, text: str) -> None:
        """How far the present one is."""
        print(f"{time.monotonic() - self._begin_s:6.1f} s  {text}", flush=True)

    def end(self) -> None:
        """The verdict; ends the process with an error if something failed or is missing."""
        missing = self._total - len(self._lines)
        if self.failed or missing:
            print(f"FAILED: {len(self.failed)} of {self._total} cases, {missing} did not come to an end")
            sys.exit(1)
        print(f"PASSED: all {self._total} cases")
