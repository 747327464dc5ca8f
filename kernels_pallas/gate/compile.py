"""Compiles one case, in a process of its own: a kernel for the wrong architecture can abort it, or a barrier hang it.

All of them are forked from one that has imported what they need, which takes longer than many a compilation.
"""

import importlib
import json
import multiprocessing
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from kernels_pallas.gate import gpu, tpu
from kernels_pallas.gate.row import Row

_STDERR, _TAIL_CHARS = 2, 1500
_ROWS, _MESSAGES = "rows.json", "messages.txt"
_PROCESSES = multiprocessing.get_context("forkserver")


def prepare(modules: Iterable[str]) -> None:
    """Says which modules have cases, before the first compilation."""
    _PROCESSES.set_forkserver_preload([__name__, *modules])


def compile_apart(module: str, target: str, name: str, *, has_reports: bool, timeout_s: float) -> list[Row]:
    """The rows of a case of a module; what goes wrong is in them.

    Args:
      module: with `cases_of`.
      target: what it is compiled for.
      name: of the case.
      has_reports: whether libtpu tells of each kernel.
      timeout_s: for all of it.
    """
    with tempfile.TemporaryDirectory(prefix="s2l_kernel_") as folder:
        process = _PROCESSES.Process(target=_compile, args=(module, target, name, has_reports, folder))
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            return [Row(name, target, ok=False, error=f"not done after {timeout_s:.0f} s")]
        if process.exitcode:
            messages = (Path(folder) / _MESSAGES).read_text(encoding="utf-8", errors="replace")
            error = f"ended with {process.exitcode}: {messages[-_TAIL_CHARS:].strip()}"
            return [Row(name, target, ok=False, error=error)]
        rows = json.loads((Path(folder) / _ROWS).read_text(encoding="utf-8"))
    return [Row.from_json(row) for row in rows]


def _compile(module: str, target: str, name: str, has_reports: bool, folder: str) -> None:
    """In the process: compilers read their variables when they are first used."""
    dump = Path(folder) / "dump"
    dump.mkdir()
    messages = os.open(Path(folder) / _MESSAGES, os.O_WRONLY | os.O_CREAT)
    os.dup2(messages, _STDERR)
    os.environ.update(_environment(target, dump, has_reports))
    compiler = tpu if target in tpu.TARGETS else gpu
    try:
        rows = compiler.compile_case(importlib.import_module(module).cases_of(target)[name](), target, dump)
    except Exception as error:  # noqa: BLE001  whatever a compiler raises is the result
        rows = [Row(name, target, ok=False, error=f"{type(error).__name__}: {error}"[:2000])]
    (Path(folder) / _ROWS).write_text(json.dumps([row.to_json() for row in rows]), encoding="utf-8")


def _environment(target: str, dump: Path, has_reports: bool) -> Mapping[str, str]:
    if target not in tpu.TARGETS:
        return gpu.environment(dump)
    return tpu.environment(dump if has_reports else None)
