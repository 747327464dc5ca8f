"""What a trace consists of."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from s2l_jax.core.errors import InvalidArgument

TRACE_VERSION = 1
Op = Literal["open", "append", "update", "finish"]
OPS: tuple[Op, ...] = ("open", "append", "update", "finish")
Part = tuple[str, int]
"""`(name, count)`: the first `count` tokens of the text of this name."""
CONTENT_KEYS = ("text", "tokens", "n_tokens", "parts")


class TraceError(InvalidArgument):
    """A trace cannot be read; the message names file, line and what was expected."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happens to one session.

    Attributes:
      t_s: seconds since the start of the trace.
      session: the session's id.
      op: what happens; a session starts with `open` and ends with `finish`.
      text: content as text; at most one of text, tokens, n_tokens, parts is given.
      tokens: content as token ids.
      n_tokens: content by its size alone; whoever replays makes the tokens up from a seed.
      parts: content by names and sizes; whoever replays makes the tokens up, the same ones for the same name, so that
        sessions share what they share. An `update` brings all parts of the new context.
      max_tokens: output tokens at most, `open` only.
      keep_chars: `update` of text only: leading characters of the context that stay.
      keep_tokens: `update` of tokens only: leading tokens that stay.
      note: for people: the question of a session, the address of a page.
    """

    t_s: float
    session: str
    op: Op
    text: str | None = None
    tokens: tuple[int, ...] | None = None
    n_tokens: int | None = None
    parts: tuple[Part, ...] | None = None
    max_tokens: int | None = None
    keep_chars: int = 0
    keep_tokens: int = 0
    note: str = ""

    @property
    def has_content(self) -> bool:
        """True if the event brings text or tokens."""
        return any(value is not None for value in (self.text, self.tokens, self.n_tokens, self.parts))

    @property
    def size(self) -> int:
        """Characters or tokens that it brings, besides those that an update keeps."""
        if self.n_tokens is not None:
            return self.n_tokens
        if self.parts is not None:
            return sum(count for _, count in self.parts)
        content = self.text if self.tokens is None else self.tokens
        return 0 if content is None else len(content)

    def to_json(self) -> dict[str, Any]:
        """The event as its line in the file holds it: fields at their default are left out."""
        line: dict[str, Any] = {"t_s": round(self.t_s, 6), "session": self.session, "op": self.op}
        for key in (*CONTENT_KEYS, "max_tokens"):
            if getattr(self, key) is not None:
                line[key] = getattr(self, key)
        line |= {key: getattr(self, key) for key in ("keep_chars", "keep_tokens", "note") if getattr(self, key)}
        return line


@dataclass(frozen=True, slots=True)
class Header:
    """What a trace says of itself.

    Attributes:
      name: short name of the workload.
      source: where the content and the timing come from, and under which licence.
      details: anything else worth keeping (seed, settings), JSON values only. `made_up` is a sentence about what the
        source does not tell and was made up, such as when pieces of context arrive; reports repeat it.
    """

    name: str
    source: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def made_up(self) -> str:
        """What was made up; empty if nothing was."""
        return str(self.details.get("made_up", ""))


@dataclass(frozen=True, slots=True)
class Session:
    """All events of one session, in order; the first is `open`, the last `finish`."""

    session: str
    events: tuple[Event, ...]

    @property
    def arrival_s(self) -> float:
        """When the query arrives."""
        return self.events[0].t_s

    @property
    def complete_s(self) -> float:
        """When the context is complete."""
        return self.events[-1].t_s


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace in memory.

    Attributes:
      header: what it says of itself.
      sessions: in order of arrival.
      sha256: hash of the file's bytes, to say which trace a result belongs to.
    """

    header: Header
    sessions: tuple[Session, ...]
    sha256: str

    @property
    def events(self) -> Iterator[Event]:
        """All events in order of time."""
        ordered = [event for session in self.sessions for event in session.events]
        return iter(sorted(ordered, key=lambda event: event.t_s))
