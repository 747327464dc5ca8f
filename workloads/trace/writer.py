"""Writes traces."""

import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from workloads.trace.event import TRACE_VERSION, Event, Header
from workloads.trace.files import create


class TraceWriter:
    """Writes a trace, compressed if its name ends in `.gz`; it appears under its name only when everything is in it.

    Example:
      with TraceWriter(Path("crawl.jsonl"), Header("crawl")) as trace:
          trace.write(Event(0.0, "q1", "open", text="..."))
    """

    def __init__(self, path: Path, header: Header) -> None:
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = create(self._partial, compress=path.suffix == ".gz")
        self._line({"s2l_trace": TRACE_VERSION, "name": header.name, "source": header.source, **header.details})

    def write(self, event: Event) -> None:
        """Adds an event; events must come in order of time."""
        self._line(event.to_json())

    def _line(self, value: dict[str, Any]) -> None:
        self._file.write(json.dumps(value, ensure_ascii=False) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink()


def write_trace(path: Path, header: Header, events: Iterable[Event]) -> None:
    """Writes a whole trace, sorting its events by time (stable, so a session keeps its order)."""
    with TraceWriter(path, header) as writer:
        for event in sorted(events, key=lambda event: event.t_s):
            writer.write(event)
