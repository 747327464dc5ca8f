"""Delivery of a session's events to its sink."""

import threading
from collections import deque
from collections.abc import Callable

from s2l_jax.orchestrator.events import DoneEvent, FailedEvent, Sink, SinkEvent


class Outlet:
    """Calls a sink with one event at a time, in order, and with nothing after the event that ends the session.

    Any thread may emit. No lock is held while the sink runs: a thread that finds the sink busy leaves its event to the
    thread that is in it. So a sink may call the orchestrator, whatever other sinks do.

    Args:
      sink: the receiver; forgotten once the session has ended.
      on_error: called with what the sink raised; the sink is not called again.
    """

    def __init__(self, sink: Sink, on_error: Callable[[Exception], None]) -> None:
        self._lock = threading.Lock()
        self._sink: Sink | None = sink
        self._on_error: Callable[[Exception], None] | None = on_error
        self._events: deque[SinkEvent] = deque()
        self._is_busy = False
        self._is_ended = False

    def emit(self, event: SinkEvent) -> None:
        """Delivers an event, now or behind those being delivered; ignored if the session has ended."""
        with self._lock:
            if self._is_ended:
                return
            self._is_ended = isinstance(event, DoneEvent | FailedEvent)
            self._events.append(event)
            if self._is_busy:
                return
            self._is_busy = True
        while self._deliver_next():
            pass

    def _deliver_next(self) -> bool:
        with self._lock:
            if not self._events or self._sink is None:
                self._is_busy = False
                if self._is_ended:
                    self._sink = self._on_error = None
                return False
            event, sink, on_error = self._events.popleft(), self._sink, self._on_error
        try:
            sink(event)
        except Exception as error:  # noqa: BLE001 - whatever a client's sink raises must not reach the engine thread
            with self._lock:
                self._events.clear()
                self._is_ended = True
            if on_error is not None:
                on_error(error)
        return True
