"""Runs jobs side by side, each in a process of its own."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kernels_pallas.gate.compile import compile_apart
from kernels_pallas.gate.row import INTERPRETER, Row

_TAIL_CHARS = 1500
_COMPILATION_S = 300.0
_TESTS_S = 900.0


class Job(Protocol):
    """Something that takes a process a while."""

    @property
    def name(self) -> str:
        """Of what is done."""

    @property
    def target(self) -> str:
        """What it is done for."""

    def run(self) -> list[Row]:
        """Does it; what goes wrong is in the rows."""


@dataclass(frozen=True, slots=True)
class Compilation:
    """One case of a target.

    Attributes:
      module: that the case is from.
      target: what it is compiled for.
      name: of the case.
      has_reports: whether libtpu tells of each kernel.
    """

    module: str
    target: str
    name: str
    has_reports: bool

    def run(self) -> list[Row]:
        """See `Job`."""
        return compile_apart(
            self.module, self.target, self.name, has_reports=self.has_reports, timeout_s=_COMPILATION_S
        )


@dataclass(frozen=True, slots=True)
class Tests:
    """Tests that run kernels in interpret mode: numerics and races.

    Attributes:
      path: of a file or folder.
    """

    path: Path

    @property
    def name(self) -> str:
        """See `Job`."""
        return str(self.path)

    @property
    def target(self) -> str:
        """See `Job`."""
        return INTERPRETER

    def run(self) -> list[Row]:
        """See `Job`."""
        began_s = time.perf_counter()
        command = [sys.executable, "-m", "pytest", self.name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TESTS_S, check=False)
        except subprocess.TimeoutExpired:
            return [Row(self.name, self.target, ok=False, error=f"not done after {_TESTS_S:.0f} s")]
        seconds = time.perf_counter() - began_s
        error = done.stdout[-_TAIL_CHARS:].strip() if done.returncode else None
        summary = done.stdout.strip().splitlines()[-1] if done.stdout else ""
        return [Row(f"{self.name}: {summary}", self.target, done.returncode == 0, seconds, error=error)]


def run_jobs(jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, list[Row]]]:
    """Does all; yields them as they end.

    Args:
      jobs: what to do.
      workers: how many at a time.
    """
    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(job.run): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()
