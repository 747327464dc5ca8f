"""Writes sessions while they are being made."""

import heapq
from collections.abc import Iterable
from pathlib import Path

from workloads.trace import Event, Header, Session, TraceWriter


def write_sessions(path: Path, header: Header, sessions: Iterable[Session]) -> None:
    """Writes a trace, holding only events of sessions that are open at the same time.

    Args:
      path: the file.
      header: what the trace says of itself.
      sessions: in order of arrival.
    """
    waiting: list[tuple[float, int, Event]] = []
    number = 0
    with TraceWriter(path, header) as writer:
        for session in sessions:
            while waiting and waiting[0][0] <= session.arrival_s:
                writer.write(heapq.heappop(waiting)[-1])
            for event in session.events:
                heapq.heappush(waiting, (event.t_s, number, event))
                number += 1
        while waiting:
            writer.write(heapq.heappop(waiting)[-1])
