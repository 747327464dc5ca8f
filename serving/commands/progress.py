"""Progress bars for loading and compiling."""

import contextlib
import threading
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_STAGES = {"load": "Loading", "compile": "Compiling", "measure": "Measuring"}


@contextlib.contextmanager
def progress_bars(*, quiet: bool) -> Iterator[Callable[[str, int, int, str], None]]:
    """Shows one bar a stage on stderr while the block runs; yields the function to report to.

    Where stderr is no terminal, a line says when a stage begins.
    """
    console = Console(stderr=True)
    bars = Progress(
        TextColumn("{task.description:<9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}"),
        console=console,
        disable=quiet or not console.is_terminal,
    )
    tasks: dict[str, TaskID] = {}
    lock = threading.Lock()

    def report(stage: str, done: int, total: int, detail: str) -> None:
        with lock:
            if stage not in tasks:
                if bars.disable and not quiet:
                    console.print(f"{_STAGES.get(stage, stage)} ...")
                tasks[stage] = bars.add_task(_STAGES.get(stage, stage), total=total, detail=detail)
            bars.update(tasks[stage], completed=done, total=total, detail=detail)

    with bars:
        yield report
