"""What one session on the wire amounts to in a trace."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from serving.protos.s2l.v1 import streaming_pb2 as pb
from serving.wire import content_from_wire
from workloads.trace import Event, Op

_ENDS = ("stop", "length")


@dataclass(slots=True)
class Tape:
    """The messages of one stream, as events.

    Attributes:
      started_s: when it was opened, in seconds since the recording began.
      session: the session's id, once the server has accepted it.
      events: so far; without the session's id.
      is_complete: the context is complete.
      is_done: the answer has come to its regular end.
    """

    started_s: float
    session: str = ""
    events: list[Event] = field(default_factory=list)
    is_complete: bool = False
    is_done: bool = False
    _last_seq: int = 0
    _is_text: bool = False

    def sent(self, request: pb.SessionRequest, t_s: float) -> None:
        """Takes note of what the client sent; a repeat of what it sent before is none."""
        seq = request.seq or self._last_seq + 1
        kind = request.WhichOneof("event")
        if seq <= self._last_seq or kind is None:
            return
        self._last_seq = seq
        message = getattr(request, kind)
        if kind == "open":
            self._add("open", t_s, message, max_tokens=message.params.max_tokens or None)
        elif kind == "append":
            self._add("append", t_s, message)
        elif kind == "update":
            self._add("update", t_s, message, keep_chars=message.keep_chars, keep_tokens=message.keep_tokens)
        elif kind == "finish":
            self._finish(t_s)

    def received(self, response: pb.SessionResponse) -> None:
        """Takes note of what the server answered."""
        if response.HasField("accepted"):
            self.session = response.accepted.session_id
        elif response.HasField("done"):
            self.is_done = response.done.finish_reason in _ENDS

    def named(self, session: str) -> list[Event]:
        """The events of a session of this name."""
        return [replace(event, session=session) for event in self.events]

    def _add(self, op: Op, t_s: float, message: Any, **fields: Any) -> None:
        content: str | Sequence[int] | None = content_from_wire(message.content)
        if content is None and op == "update":  # cuts the context
            content = "" if self._is_text else ()
        if content is not None or op == "open":
            text = content if isinstance(content, str) else None
            tokens = None if content is None or isinstance(content, str) else tuple(content)
            self._is_text = self._is_text or text is not None
            self.events.append(Event(t_s, "", op, text=text, tokens=tokens, **fields))
        if message.final:
            self._finish(t_s)

    def _finish(self, t_s: float) -> None:
        self.events.append(Event(t_s, "", "finish"))
        self.is_complete = True
