"""How far a replay is: a bar in a terminal, a line every few seconds elsewhere."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from workloads.replay.rows import EventRow
from workloads.replay.schedule import PlannedSession

_LINE_INTERVAL_S = 10.0


class ReplayProgress:
    """Counts a replay's events and shows them; `on_event` may be handed to the runner."""

    def __init__(self, console: Console, label: str) -> None:
        self._console = console
        self._label = label
        self._complete_s: dict[str, float] = {}
        self._started_s = 0.0
        self._open = self._done = self._failed = 0
        self._ttft_s: dict[str, float] = {}
        self._next_line_s = _LINE_INTERVAL_S
        self._bar: Progress | None = None

    @contextmanager
    def of(self, planned: Sequence[PlannedSession]) -> Iterator[None]:
        """Shows progress while the block runs."""
        self._complete_s = {session.session: session.complete_s for session in planned}
        self._started_s = time.monotonic()
        if not self._console.is_terminal:
            yield
            self._console.print(self._line(), highlight=False)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as self._bar:
            self._task = self._bar.add_task(self._label, total=len(planned), state="")
            yield
        self._bar = None

    def on_event(self, event: EventRow) -> None:
        """Takes note of an event."""
        match event.kind:
            case "arrival":
                self._open += 1
            case "token":
                self._ttft_s.setdefault(event.session, event.t_s - self._complete_s[event.session])
            case "done" | "error":
                self._open -= 1
                self._done += 1
                self._failed += event.kind == "error"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, state=self._state())
        elif not self._console.is_terminal and event.t_s >= self._next_line_s:
            self._next_line_s = event.t_s + _LINE_INTERVAL_S
            self._console.print(self._line(), highlight=False)

    def _line(self) -> str:
        return f"  {self._label}  {time.monotonic() - self._started_s:.0f} s: {self._state()}"

    def _state(self) -> str:
        parts = [f"{self._done}/{len(self._complete_s)} done", f"{self._open} open"]
        if self._failed:
            parts.append(f"{self._failed} failed")
        if self._ttft_s:
            parts.append(f"TTFT P50 {float(np.median(list(self._ttft_s.values()))):.2f} s")
        left_s = max(self._complete_s.values(), default=0.0) - (time.monotonic() - self._started_s)
        if self._done < len(self._complete_s):
            parts.append(f"about {left_s:.0f} s left" if left_s > 1 else "finishing")
        return " · ".join(parts)


class SimulationProgress:
    """Counts the sessions of a simulated replay that are done; `on_event` is handed to the simulation."""

    def __init__(self, console: Console, label: str) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(label, total=None)

    @contextmanager
    def of(self, planned: Sequence[PlannedSession]) -> Iterator[None]:
        """Shows progress while the block runs."""
        self._bar.update(self._task, total=len(planned))
        with self._bar:
            yield

    def on_event(self, event: EventRow) -> None:
        """Takes note of an event."""
        if event.kind in ("done", "error"):
            self._bar.advance(self._task)
