"""What no single line of a trace can show: order of time, and the order of events in each session."""

from workloads.trace.event import Event
from workloads.trace.line import LineError


class _Open:
    """An open session: how long its context is, and in which unit."""

    __slots__ = ("is_text", "size")

    def __init__(self) -> None:
        self.is_text: bool | None = None
        self.size = 0  # characters of text, else tokens


class SessionRules:
    """Checks events in the order of the file. After a breach it may go on: each is reported once."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._sessions: dict[str, _Open | None] = {}  # None: finished

    def check(self, event: Event) -> None:
        """Takes the next event.

        Raises:
          LineError: it breaks a rule.
        """
        before_s, self._now_s = self._now_s, event.t_s
        is_known = event.session in self._sessions
        state = self._sessions.get(event.session)
        if event.op == "open" and not is_known:
            state = self._sessions[event.session] = _Open()
        if event.t_s < before_s:
            raise LineError(f"t_s is {event.t_s}, expected at least {before_s} (events are in order of time)")
        if state is None and is_known:
            raise LineError(
                f"{event.op} for session {event.session!r}, which has finished; expected nothing more of it"
            )
        if state is None or (event.op == "open" and is_known):
            known = "an open session" if event.op == "open" else "a session that was never opened"
            raise LineError(f"{event.op} for {event.session!r}, {known}; expected one open, then the rest")
        if event.op == "finish":
            self._sessions[event.session] = None
        elif event.has_content:
            _grow(state, event)

    @property
    def sessions(self) -> int:
        """How many there have been."""
        return len(self._sessions)

    def unfinished(self) -> list[str]:
        """Sessions without a finish."""
        return [session for session, state in self._sessions.items() if state is not None]


def _grow(state: _Open, event: Event) -> None:
    """Adds the event's content to the session's context."""
    is_text = event.text is not None
    if state.is_text is not None and state.is_text != is_text:
        raise LineError(f"session {event.session!r} mixes text and tokens; expected one kind throughout")
    kept = state.size
    if event.op == "update":
        name, kept = ("keep_chars", event.keep_chars) if is_text else ("keep_tokens", event.keep_tokens)
        if kept > state.size:
            raise LineError(f"{name} is {kept}, expected {state.size} at most, the length of the context")
    state.is_text, state.size = is_text, kept + event.size
