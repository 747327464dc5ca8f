"""Sessions opened by plain requests, between these requests."""

import time
from collections.abc import AsyncIterator, Callable

from s2l_jax.core.errors import FailedPrecondition, NotFound
from s2l_jax.core.outcome import Ack
from s2l_jax.orchestrator.events import DoneEvent, FailedEvent, SinkEvent
from serving.http.backend import Backend
from serving.http.session_events import event_of
from serving.http.session_requests import Open
from serving.http.sse import EventStream, event
from serving.outbox import Outbox
from serving.session_responses import response_of
from serving.tenants.account import Account

KEEP_S = 60.0


class HttpSession:
    """One session and what of its output has not been read.

    Attributes:
      id: the session, by its tenant's name for it.
      account: whose it is.
      ended_s: when it ended, None while it runs.
      is_read: somebody reads its output.
    """

    def __init__(self, account: Account, clock: Callable[[], float]) -> None:
        self.id = ""
        self.account = account
        self.ended_s: float | None = None
        self.is_read = False
        self._clock = clock
        self._outbox = Outbox()

    def sink(self, one: SinkEvent) -> None:
        """Takes an event of the session; any thread."""
        if isinstance(one, DoneEvent | FailedEvent):
            self.ended_s = self._clock()
        self._outbox.sink(one)

    async def events(self) -> AsyncIterator[bytes]:
        """Encoded events of the output, to the end.

        Raises:
          S2LError: the session failed.
        """
        while True:
            one = await self._outbox.get()
            if isinstance(one, FailedEvent):
                raise one.error
            yield event(event_of(response_of(one)).to_json())
            if isinstance(one, DoneEvent):
                return


class SessionTable:
    """Belongs to one event loop. A session leaves the table when its output has been read, or its reader has gone; when
    it is cancelled; or when it has ended and nobody came for its output in `keep_s`. So the table holds the sessions
    that are open, and those that ended lately, of these no more than may be open.

    Args:
      backend: the served model.
      keep_s: see above.
      clock: seconds, rising.
    """

    def __init__(self, backend: Backend, keep_s: float = KEEP_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._backend = backend
        self._keep_s = keep_s
        self._clock = clock
        self._sessions: dict[tuple[str, str], HttpSession] = {}

    async def open(self, account: Account, body: Open) -> tuple[HttpSession, Ack]:
        """Opens a session; errors are those of `Account.open`."""
        session = HttpSession(account, self._clock)
        params = body.params.params(self._backend.model.default_max_tokens)

        def run() -> Ack:
            return account.open(
                sink=session.sink,
                params=params,
                content=body.content,
                session_id=body.session_id,
                final=body.final,
                add_bos=body.add_bos,
                priority=body.priority,
                first_token_within_s=body.first_token_within_s,
            )

        ack = await self._backend.in_pool(run)
        session.id = ack.session_id
        self._sweep()
        self._sessions[_key(session)] = session
        return session, ack

    def find(self, account: Account, session_id: str) -> HttpSession:
        """The tenant's session of this id.

        Raises:
          NotFound: it is not in the table, or is another tenant's.
        """
        session = self._sessions.get((account.tenant, session_id))
        if session is None:
            raise NotFound(f"no session {session_id!r}: it was not opened here, or its output has been read")
        return session

    def read(self, session: HttpSession, first: bytes = b"") -> EventStream:
        """An answer with the session's output; a reader that goes cancels the session.

        Args:
          session: whose output.
          first: an event that comes before it.

        Raises:
          FailedPrecondition: somebody reads it already.
        """
        if session.is_read:
            raise FailedPrecondition(f"the output of session {session.id!r} is being read already")
        session.is_read = True

        async def events() -> AsyncIterator[bytes]:
            if first:
                yield first
            async for one in session.events():
                yield one

        return EventStream(events(), lambda: self._leave(session), self._backend.send_timeout_s)

    def cancel(self, session: HttpSession, seq: int = 0) -> None:
        """Ends a session; a reader gets its end.

        Raises:
          InvalidArgument: `seq` shows that events are missing.
        """
        if session.ended_s is None:
            session.account.cancel(session.id, seq=seq)
        if not session.is_read:
            self._drop(session)

    def _leave(self, session: HttpSession) -> None:
        self._drop(session)
        if session.ended_s is None:
            session.account.cancel(session.id)

    def _drop(self, session: HttpSession) -> None:
        if self._sessions.get(_key(session)) is session:
            del self._sessions[_key(session)]

    def _sweep(self) -> None:
        now_s = self._clock()
        ended = [
            (session.ended_s, session)
            for session in self._sessions.values()
            if session.ended_s is not None and not session.is_read
        ]
        ended.sort(key=lambda pair: pair[0])
        surplus = len(ended) - self._backend.orchestrator.config.max_sessions
        for index, (ended_s, session) in enumerate(ended):
            if index < surplus or now_s - ended_s >= self._keep_s:
                self._drop(session)


def _key(session: HttpSession) -> tuple[str, str]:
    return session.account.tenant, session.id
