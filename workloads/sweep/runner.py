"""Runs a sweep on all cores. What is done stays done: a sweep that was interrupted goes on where it stopped."""

import functools
import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cost_profiles.catalog import find_profile
from workloads.sweep.cell import Cell
from workloads.sweep.replica import ReplicaResult, run_replica
from workloads.sweep.result import CellResult, merge

RESULTS_FILE = "results.json"
_PARTS_FOLDER = "replicas"

OnDone = Callable[[int], None]
Task = tuple[Cell, int]


def run_sweep(
    cells: Sequence[Cell], folder: Path, workers: int | None = None, on_done: OnDone | None = None
) -> list[CellResult]:
    """Simulates all cells and writes `results.json`.

    Args:
      cells: what to simulate.
      folder: keeps a file for each replica that is done; what is there already is not simulated again, if this version
        of the software made it with this profile.
      workers: processes; None takes all cores.
      on_done: told the number of replicas that are done, first of all those that were done before.

    Raises:
      InvalidArgument: a cell's profile, trace and limits do not go together.
    """
    parts = folder / _PARTS_FOLDER
    parts.mkdir(parents=True, exist_ok=True)
    tasks = dict.fromkeys((cell, replica) for cell in cells for replica in range(cell.replicas))
    results = {task: result for task in tasks if (result := _load(parts, task)) is not None}
    report = on_done or _ignore
    report(len(results))
    missing = [task for task in tasks if task not in results]
    for task, result in _run(missing, workers or os.cpu_count() or 1):
        results[task] = result
        _save(parts, task, result)
        report(len(results))
    merged = [merge(cell, [results[cell, replica] for replica in range(cell.replicas)]) for cell in cells]
    lines = [json.dumps(result.to_json()) for result in merged]
    _write(folder / RESULTS_FILE, "[\n" + ",\n".join(lines) + "\n]\n")
    return merged


def forget(folder: Path) -> None:
    """Forgets what is done, so that everything is simulated anew."""
    shutil.rmtree(folder / _PARTS_FOLDER, ignore_errors=True)


def read_results(folder: Path) -> list[CellResult]:
    """Reads what `run_sweep` has written."""
    value = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
    return [CellResult.from_json(result) for result in value]


def _run(tasks: Sequence[Task], workers: int) -> Any:
    """Yields `(task, result)` as they are done; only as many tasks are handed out as there are workers."""
    context = multiprocessing.get_context("spawn")
    left = list(reversed(tasks))
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        running: dict[Future[ReplicaResult], Task] = {}
        try:
            while left or running:
                while left and len(running) <= workers:
                    task = left.pop()
                    running[pool.submit(run_replica, *task)] = task
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _path(parts: Path, task: Task) -> Path:
    cell, replica = task
    return parts / f"{cell.key}-{replica}.json"


def _load(parts: Path, task: Task) -> ReplicaResult | None:
    try:
        value = json.loads(_path(parts, task).read_text(encoding="utf-8"))
        return ReplicaResult(**value["result"]) if value["made_of"] == _made_of(task[0]) else None
    except (OSError, ValueError, TypeError, LookupError):
        return None


def _save(parts: Path, task: Task, result: ReplicaResult) -> None:
    value = {"made_of": _made_of(task[0]), "cell": task[0].to_json(), "replica": task[1], "result": asdict(result)}
    _write(_path(parts, task), json.dumps(value))


def _write(path: Path, text: str) -> None:
    """The file appears complete or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


@functools.cache
def _made_of(cell: Cell) -> str:
    """What a result depends on besides its cell: the software's version and the profile's content."""
    profiles = [find_profile(name).to_json() for name in (cell.profile, cell.generate) if name]
    digest = hashlib.sha256(json.dumps(profiles, sort_keys=True).encode()).hexdigest()
    return f"{version('s2l-jax')} {digest[:16]}"


def _ignore(done: int) -> None:
    """Nobody watches."""
