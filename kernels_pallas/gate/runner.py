"""Runs compilations side by side, each in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from kernels_pallas.gate.compile import DUMP_VARIABLE
from kernels_pallas.gate.row import Row

TIMEOUT_S = 300.0
_TAIL_CHARS = 1500


@dataclass(frozen=True, slots=True)
class Job:
    """One compilation: the module it is from, the case's place among those of its target, and its name."""

    module: str
    target: str
    index: int
    name: str


def run_jobs(
    jobs: Sequence[Job], environment: Callable[[str, Path], dict[str, str]], workers: int
) -> Iterator[tuple[Job, list[Row]]]:
    """Compiles all; yields them as they end.

    Args:
      jobs: what to compile.
      environment: variables of the process, given its target and the folder for the compiler's reports.
      workers: how many at a time.
    """
    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(_compile, job, environment): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _compile(job: Job, environment: Callable[[str, Path], dict[str, str]]) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="s2l_kernel_") as folder:
        dump = Path(folder)
        variables = os.environ | environment(job.target, dump) | {DUMP_VARIABLE: folder}
        command = [sys.executable, "-m", "kernels_pallas.gate.compile", job.module, job.target, str(job.index)]
        try:
            done = subprocess.run(
                command, env=variables, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return [_failed(job, f"not done after {TIMEOUT_S:.0f} s")]
    if done.returncode:
        return [_failed(job, f"ended with {done.returncode}: {done.stderr[-_TAIL_CHARS:].strip()}")]
    return [Row.from_json(value) for value in json.loads(done.stdout.splitlines()[-1])]


def _failed(job: Job, error: str) -> Row:
    return Row(job.name, job.target, ok=False, error=error)
