"""Writes finished sessions into a trace while others go on."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from workloads.record.tape import Tape
from workloads.trace import Header, TraceError, TraceWriter
from workloads.trace.order import EventOrder


@dataclass(slots=True)
class Recorded:
    """How many sessions there were.

    Attributes:
      finished: in the trace.
      open: under way.
      left_out: that failed, were cancelled, or were under way when the recording ended.
    """

    finished: int = 0
    open: int = 0
    left_out: int = 0


class Recorder:
    """Keeps the tapes of all sessions. Belongs to one event loop; used as a context manager.

    A session's events are written once it has ended and nothing earlier can come, that is, when all sessions that were
    opened before have ended as well. Left without a finished session, it raises `TraceError` and leaves no file.
    """

    def __init__(
        self,
        out: Path,
        header: Header,
        on_change: Callable[[Recorded], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts the clock of the trace.

        Args:
          out: the trace.
          header: what it says of itself.
          on_change: told when a session begins or ends.
          clock: seconds; only differences matter.
        """
        self.counts = Recorded()
        self._clock = clock
        self._start_s = clock()
        self._on_change = on_change
        self._writer = TraceWriter(out, header)
        self._order = EventOrder()
        self._open: dict[int, Tape] = {}  # in order of their beginning
        self._names: dict[str, int] = {}

    @property
    def now_s(self) -> float:
        """Seconds since the recording began."""
        return self._clock() - self._start_s

    def begin(self) -> Tape:
        """A session begins."""
        tape = Tape(self.now_s)
        self._open[id(tape)] = tape
        self.counts.open += 1
        self._on_change(self.counts)
        return tape

    def end(self, tape: Tape) -> None:
        """A session has ended, one way or the other."""
        del self._open[id(tape)]
        self.counts.open -= 1
        if tape.is_complete and tape.is_done:
            self.counts.finished += 1
            self._order.add(tape.named(self._name(tape.session)))
        else:
            self.counts.left_out += 1
        first = next(iter(self._open.values()), None)
        self._write(self.now_s if first is None else first.started_s)
        self._on_change(self.counts)

    def _name(self, session: str) -> str:
        """The session's id; with a number if an earlier one had the same."""
        times = self._names[session] = self._names.get(session, 0) + 1
        return session if times == 1 else f"{session} ({times})"

    def _write(self, until_s: float) -> None:
        for event in self._order.until(until_s):
            self._writer.write(event)

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and not self.counts.finished:
            problem = TraceError(f"no session was finished, so there is no trace ({self.counts.left_out} left out)")
            self._writer.__exit__(TraceError, problem, None)
            raise problem
        self._write(math.inf)
        self._writer.__exit__(kind, error, trace)
