"""What servers open sessions with: an orchestrator in this process, or a router to other processes."""

from typing import Protocol

from s2l_jax.core.outcome import Ack
from s2l_jax.core.params import SamplingParams
from s2l_jax.orchestrator.config import OrchestratorConfig
from s2l_jax.orchestrator.counters import OrchestratorStats
from s2l_jax.orchestrator.events import Content, Sink


class SessionOwner(Protocol):
    """The part of `Orchestrator` that servers call; see there. Every method may be called from any thread."""

    config: OrchestratorConfig

    def open(
        self,
        *,
        sink: Sink,
        params: SamplingParams | None = None,
        content: Content = None,
        session_id: str | None = None,
        final: bool = False,
        add_bos: bool = False,
        tenant: str = "",
        priority: int = 0,
        first_token_within_s: float | None = None,
    ) -> Ack:
        """Opens a session."""

    def append(self, session_id: str, content: Content, *, final: bool = False, seq: int = 0) -> Ack:
        """Adds content to the end of a session's context."""

    def update(
        self,
        session_id: str,
        content: Content,
        *,
        keep_tokens: int = 0,
        keep_chars: int = 0,
        final: bool = False,
        seq: int = 0,
    ) -> Ack:
        """Replaces the context behind its first tokens or characters."""

    def finish(self, session_id: str, *, seq: int = 0) -> Ack:
        """Says that the context is complete."""

    def cancel(self, session_id: str, *, seq: int = 0) -> None:
        """Ends a session at once; does not block."""

    def unready(self) -> str | None:
        """Why no session may be opened any more, None if sessions may."""

    def stats(self) -> OrchestratorStats:
        """A snapshot of counters and queues."""

    def drain(self, timeout_s: float) -> bool:
        """Lets open sessions come to their ends, but no new ones in."""

    def close(self) -> None:
        """Ends what is left."""
