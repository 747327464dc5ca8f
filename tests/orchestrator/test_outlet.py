"""Delivery: in order, one at a time, exactly one end."""

import threading
import weakref

from s2l_jax.core.errors import InternalError
from s2l_jax.core.outcome import SessionStats
from s2l_jax.orchestrator.events import DoneEvent, FailedEvent, ProgressEvent, SinkEvent
from s2l_jax.orchestrator.outlet import Outlet

DONE = DoneEvent("stop", SessionStats(1, 1, 1, 0, 0, 0, 0, 0, None, None))


def test_nothing_follows_the_last_event() -> None:
    seen: list[SinkEvent] = []
    outlet = Outlet(seen.append, raise_error)
    for event in (ProgressEvent(1, 2), DONE, ProgressEvent(2, 2), FailedEvent(InternalError("late"))):
        outlet.emit(event)
    assert seen == [ProgressEvent(1, 2), DONE]


def test_a_sink_is_forgotten_after_the_last_event() -> None:
    def sink(event: SinkEvent) -> None:
        """Ignores all."""

    outlet, ref = Outlet(sink, raise_error), weakref.ref(sink)
    del sink
    outlet.emit(ProgressEvent(1, 2))
    assert ref() is not None
    outlet.emit(DONE)
    assert ref() is None


def test_a_sink_may_emit_and_order_stays() -> None:
    seen: list[SinkEvent] = []

    def sink(event: SinkEvent) -> None:
        seen.append(event)
        if event == ProgressEvent(0, 0):
            outlet.emit(ProgressEvent(1, 0))
            seen.append(ProgressEvent(9, 9))

    outlet = Outlet(sink, raise_error)
    outlet.emit(ProgressEvent(0, 0))
    assert seen == [ProgressEvent(0, 0), ProgressEvent(9, 9), ProgressEvent(1, 0)]


def test_a_sink_that_raises_is_not_called_again() -> None:
    errors: list[Exception] = []
    calls: list[SinkEvent] = []

    def sink(event: SinkEvent) -> None:
        calls.append(event)
        raise ValueError("broken pipe")

    outlet = Outlet(sink, errors.append)
    outlet.emit(ProgressEvent(0, 0))
    outlet.emit(DONE)
    assert len(calls) == 1
    assert [str(error) for error in errors] == ["broken pipe"]


def test_threads_never_meet_in_a_sink() -> None:
    seen: list[int] = []
    inside = threading.Lock()

    def sink(event: SinkEvent) -> None:
        assert isinstance(event, ProgressEvent)
        assert inside.acquire(blocking=False), "two threads in one sink"
        seen.append(event.computed_tokens)
        inside.release()

    outlet = Outlet(sink, raise_error)

    def emit_many(first: int) -> None:
        for i in range(first, 4000, 4):
            outlet.emit(ProgressEvent(i, 0))

    threads = [threading.Thread(target=emit_many, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(4000))
    for i in range(4):
        mine = [n for n in seen if n % 4 == i]
        assert mine == sorted(mine)


def raise_error(error: Exception) -> None:
    raise error
