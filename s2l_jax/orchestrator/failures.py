"""Sessions that have ended with an error, until their sinks are told."""

from collections.abc import Callable

from s2l_jax.core.errors import S2LError
from s2l_jax.orchestrator.events import FailedEvent
from s2l_jax.orchestrator.open_session import OpenSession

type Failures = list[tuple[OpenSession, S2LError]]
"""Sessions that have ended, and what their sinks must be told. Each has an error of its own, for it will be raised."""

type MakeError = Callable[[], S2LError]


def emit_failures(failures: Failures) -> None:
    """Tells sinks why their sessions have ended. To be called without the registry's lock."""
    for session, error in failures:
        session.outlet.emit(FailedEvent(error))
