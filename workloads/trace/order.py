"""Puts the events of many sessions in order of time, holding no more than it must."""

import heapq
import itertools
from collections.abc import Iterable, Iterator

from workloads.trace.event import Event


class EventOrder:
    """Takes sessions as they are found and gives events as soon as nothing earlier can come."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int, Event]] = []
        self._serial = itertools.count()

    def add(self, events: Iterable[Event]) -> None:
        """Takes a session's events; they keep their order."""
        for event in events:
            heapq.heappush(self._waiting, (event.t_s, next(self._serial), event))

    def until(self, t_s: float) -> Iterator[Event]:
        """Gives what is not later than `t_s`; what comes later must not be earlier."""
        while self._waiting and self._waiting[0][0] <= t_s:
            yield heapq.heappop(self._waiting)[2]
