"""What an orchestrator tells whoever watches it: metrics, traces, a live page."""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from s2l_jax.core.errors import S2LError
from s2l_jax.core.ids import SessionId
from s2l_jax.core.outcome import Ack
from s2l_jax.core.plan import StepPlan, StepResult
from s2l_jax.orchestrator.events import Sink, SinkEvent

_log = logging.getLogger(__name__)

type Op = Literal["open", "append", "update", "finish"]


@dataclass(frozen=True, slots=True)
class Opening:
    """A session that is about to be opened.

    Attributes:
      session_id: its name.
      tenant: whose it is.
      max_tokens: output tokens at most.
      final: its context is complete: a plain request.
      now_s: the time, on the orchestrator's clock.
    """

    session_id: SessionId
    tenant: str
    max_tokens: int
    final: bool
    now_s: float


class SessionWatch(Protocol):
    """Follows one session. Its first call is `changed("open", ...)` or `refused`, unless an event of it was quicker."""

    def changed(self, op: Op, ack: Ack, *, final: bool, now_s: float) -> None:
        """An event of the client has been applied. Events and output of one session may come from different threads.

        Args:
          op: what it was; an `append` that brings nothing and completes the context is a `finish`.
          ack: its answer.
          final: the context is complete with it.
          now_s: when it came.
        """

    def refused(self, error: S2LError) -> None:
        """The session was not opened; nothing follows."""

    def emitted(self, event: SinkEvent, now_s: float) -> None:
        """An event goes to the session's sink; nothing follows a `DoneEvent` or a `FailedEvent`."""


class Observer(Protocol):
    """Watches an orchestrator.

    Called by its threads, the engine's among them, with no lock held but that of the session in question, so it must be
    quick. What it raises is logged, and hurts nobody.
    """

    def opening(self, opening: Opening) -> SessionWatch:
        """A session is about to be opened."""

    def submitted(self, plan: StepPlan, now_s: float, engine: int) -> None:
        """A step has been handed to the engine of this index."""

    def collected(self, result: StepResult, now_s: float, engine: int) -> None:
        """A step has come home, and its output has not been handed out yet."""


class Blind:
    """Sees nothing."""

    def changed(self, op: Op, ack: Ack, *, final: bool, now_s: float) -> None:
        """Ignored."""

    def refused(self, error: S2LError) -> None:
        """Ignored."""

    def emitted(self, event: SinkEvent, now_s: float) -> None:
        """Ignored."""

    def opening(self, opening: Opening) -> SessionWatch:
        """Watches nothing."""
        return self

    def submitted(self, plan: StepPlan, now_s: float, engine: int) -> None:
        """Ignored."""

    def collected(self, result: StepResult, now_s: float, engine: int) -> None:
        """Ignored."""


def quiet[**P, T](call: Callable[P, T]) -> Callable[P, T | None]:
    """Keeps an observer's defects to itself: they are logged, and who is being watched goes on."""

    @functools.wraps(call)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return call(*args, **kwargs)
        except Exception:  # noqa: BLE001 - whatever it is, nobody's session may end by being watched
            _log.exception("an observer failed")
            return None

    return guarded


class WatchedSession:
    """A session's watch as the orchestrator calls it: it never raises.

    Args:
      watch: the observer's.
      clock: of the orchestrator.
    """

    def __init__(self, watch: SessionWatch, clock: Callable[[], float]) -> None:
        self.changed = quiet(watch.changed)
        self.refused = quiet(watch.refused)
        self._emitted = quiet(watch.emitted)
        self._clock = clock

    def emitted(self, event: SinkEvent) -> None:
        """An event goes to the sink."""
        self._emitted(event, self._clock())

    def around(self, sink: Sink) -> Sink:
        """A sink that tells the watch, then the session's own sink."""
        emitted = self.emitted

        def deliver(event: SinkEvent) -> None:
            emitted(event)
            sink(event)

        return deliver
