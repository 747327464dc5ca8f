"""Runs jobs side by side, each in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kernels_pallas.gate.compile import DUMP_VARIABLE
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
      environment: variables of the process, given the folder for the compiler's reports.
    """

    module: str
    target: str
    name: str
    environment: Callable[[Path], dict[str, str]]

    def run(self) -> list[Row]:
        """See `Job`."""
        with tempfile.TemporaryDirectory(prefix="s2l_kernel_") as folder:
            variables = os.environ | self.environment(Path(folder)) | {DUMP_VARIABLE: folder}
            command = [sys.executable, "-m", "kernels_pallas.gate.compile", self.module, self.target, self.name]
            try:
                done = subprocess.run(
                    command, env=variables, capture_output=True, text=True, timeout=_COMPILATION_S, check=False
                )
            except subprocess.TimeoutExpired:
                return [self._failed(f"not done after {_COMPILATION_S:.0f} s")]
        if done.returncode:
            return [self._failed(f"ended with {done.returncode}: {done.stderr[-_TAIL_CHARS:].strip()}")]
        return [Row.from_json(value) for value in json.loads(done.stdout.splitlines()[-1])]

    def _failed(self, error: str) -> Row:
        return Row(self.name, self.target, ok=False, error=error)


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
