"""Who is open: the sessions of one scheduler, each with its row, in the order they came."""

from collections.abc import Iterable

from s2l_jax.core.errors import AlreadyExists, NotFound, ResourceExhausted
from s2l_jax.core.ids import SessionId, SlotId
from s2l_jax.core.rows import Rows
from s2l_jax.core.session import Session
from s2l_jax.core.tenants import TenantUsage


class Roster:
    """The open sessions.

    Attributes:
      rows: of the per-session device buffers; each session has one.
      arrivals: how many sessions have come so far, which is the rank of the next one.
    """

    def __init__(self, max_sessions: int, usage: TenantUsage) -> None:
        self.rows = Rows(max_sessions)
        self.arrivals = 0
        self._max_sessions = max_sessions
        self._usage = usage
        self._sessions: dict[SessionId, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, session_id: SessionId) -> bool:
        return session_id in self._sessions

    @property
    def sessions(self) -> Iterable[Session]:
        """All of them."""
        return self._sessions.values()

    @property
    def is_full(self) -> bool:
        """True if no more may come before one has ended."""
        return len(self._sessions) == self._max_sessions

    def find(self, session_id: SessionId) -> Session:
        """The open session of this id.

        Raises:
          NotFound: there is none.
        """
        if session_id not in self._sessions:
            raise NotFound(f"session {session_id!r} is not open: it was never opened, or it has ended")
        return self._sessions[session_id]

    def check_new(self, session_id: SessionId) -> None:
        """Raises AlreadyExists if a session of this id is open."""
        if session_id in self._sessions:
            raise AlreadyExists(f"session {session_id!r} is open already: choose another id")

    def check_room(self) -> None:
        """Raises ResourceExhausted if no more may come."""
        if self.is_full:
            raise ResourceExhausted(f"all {self._max_sessions} sessions are in use: try again later")

    def take_row(self) -> SlotId:
        """A row for a session that is about to enter.

        Raises:
          RuntimeError: it is full.
        """
        row = self.rows.take()
        if row is None:
            raise RuntimeError("there are fewer rows than sessions")
        return row

    def enter(self, session: Session) -> None:
        """Takes a session in; it has its row already."""
        self.arrivals += 1
        self._sessions[session.id] = session
        self._usage.join(session.tenant)

    def leave(self, session: Session) -> None:
        """A session has ended."""
        self.rows.give(session.slot)
        self._usage.leave(session.tenant)
        del self._sessions[session.id]
