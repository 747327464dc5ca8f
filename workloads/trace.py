"""The internal trace: one JSON object a line, a header first, then the events of all sessions in order of time."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

from s2l_jax.core.errors import InvalidArgument

TRACE_VERSION = 1
Op = Literal["open", "append", "update", "finish"]
OPS: tuple[Op, ...] = ("open", "append", "update", "finish")
Part = tuple[str, int]
"""`(name, count)`: the first `count` tokens of the text of this name."""
_CONTENT_KEYS = ("text", "tokens", "n_tokens", "parts")
_EVENT_KEYS = frozenset({"t_s", "session", "op", "max_tokens", "keep_chars", "keep_tokens", "note", *_CONTENT_KEYS})


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

    def to_json(self) -> dict[str, Any]:
        """The event as its line in the file holds it: fields at their default are left out."""
        line: dict[str, Any] = {"t_s": round(self.t_s, 6), "session": self.session, "op": self.op}
        for key in (*_CONTENT_KEYS, "max_tokens"):
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
      details: anything else worth keeping (seed, settings), JSON values only.
    """

    name: str
    source: str = ""
    details: dict[str, Any] = field(default_factory=dict)


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


class TraceWriter:
    """Writes a trace; the file appears under its name only when everything is in it.

    Example:
      with TraceWriter(Path("crawl.jsonl"), Header("crawl")) as trace:
          trace.write(Event(0.0, "q1", "open", text="..."))
    """

    def __init__(self, path: Path, header: Header) -> None:
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._partial.open("w", encoding="utf-8")
        self._line({"s2l_trace": TRACE_VERSION, "name": header.name, "source": header.source, **header.details})

    def write(self, event: Event) -> None:
        """Adds an event; events must come in order of time."""
        self._line(event.to_json())

    def _line(self, value: dict[str, Any]) -> None:
        self._file.write(json.dumps(value, ensure_ascii=False) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink()


def write_trace(path: Path, header: Header, events: Iterable[Event]) -> None:
    """Writes a whole trace, sorting its events by time (stable, so a session keeps its order)."""
    with TraceWriter(path, header) as writer:
        for event in sorted(events, key=lambda event: event.t_s):
            writer.write(event)


def read_events(path: Path) -> Iterator[Header | Event]:
    """Reads a trace line by line, checking each: first the header, then the events.

    Raises:
      TraceError: a line is wrong, or a session is left open at the end.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}; expected a trace file (JSON lines)") from error
    rules = _SessionRules()
    number = 0
    with file:
        for number, line in enumerate(file, start=1):
            try:
                if number == 1:
                    yield _parse_header(_parse_object(line))
                elif line.strip():
                    event = _parse_event(_parse_object(line))
                    rules.check(event)
                    yield event
            except _LineError as error:
                raise TraceError(f"{path}:{number}: {error}") from None
    if number == 0:
        raise TraceError(f'{path}: empty; expected a header line such as {{"s2l_trace": {TRACE_VERSION}, "name": ...}}')
    if unfinished := rules.unfinished():
        raise TraceError(f"{path}:{number}: ends without a finish for session {unfinished!r}")


def read_trace(path: Path) -> Trace:
    """Reads a whole trace.

    Raises:
      TraceError: as `read_events`; also if the trace has no session.
    """
    by_session: dict[str, list[Event]] = {}
    header = Header("")
    for item in read_events(path):
        if isinstance(item, Header):
            header = item
        else:
            by_session.setdefault(item.session, []).append(item)
    if not by_session:
        raise TraceError(f"{path}: no events; expected at least one session")
    sessions = tuple(Session(session, tuple(events)) for session, events in by_session.items())
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Trace(header, sessions, sha256)


class _LineError(Exception):
    """What is wrong with a line; file and line number are added by the reader."""


class _SessionRules:
    """Checks what no single line can show: order of time, and the order of events in each session."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._is_text: dict[str, bool | None] = {}
        self._finished: set[str] = set()

    def check(self, event: Event) -> None:
        session = event.session
        if event.t_s < self._now_s:
            raise _LineError(f"t_s is {event.t_s}, expected at least {self._now_s} (events are in order of time)")
        if session in self._finished:
            raise _LineError(f"{event.op} for session {session!r}, which has finished; expected nothing more of it")
        if (event.op == "open") == (session in self._is_text):
            known = "an open session" if event.op == "open" else "a session that was never opened"
            raise _LineError(f"{event.op} for {session!r}, {known}; expected one open, then the rest")
        is_text = self._is_text.setdefault(session, None)
        if event.has_content:
            if is_text is not None and is_text != (event.text is not None):
                raise _LineError(f"session {session!r} mixes text and tokens; expected one kind throughout")
            self._is_text[session] = event.text is not None
        if event.op == "finish":
            self._finished.add(session)
        self._now_s = event.t_s

    def unfinished(self) -> str | None:
        """A session without a finish, if there is one."""
        return next((session for session in self._is_text if session not in self._finished), None)


def _parse_object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _LineError(f"not JSON ({error}); expected one JSON object a line") from None
    if not isinstance(value, dict):
        raise _LineError(f"is a {type(value).__name__}; expected a JSON object")
    return value


def _parse_header(line: dict[str, Any]) -> Header:
    version = line.pop("s2l_trace", None)
    if version != TRACE_VERSION:
        raise _LineError(f'expected a header line with "s2l_trace": {TRACE_VERSION}, found {version!r}')
    return Header(str(line.pop("name", "")), str(line.pop("source", "")), line)


def _parse_event(line: dict[str, Any]) -> Event:
    if unknown := sorted(set(line) - _EVENT_KEYS):
        raise _LineError(f"unknown field {unknown[0]!r}; expected some of {', '.join(sorted(_EVENT_KEYS))}")
    op = line.get("op")
    if op not in OPS:
        raise _LineError(f"op is {op!r}, expected one of {', '.join(OPS)}")
    session = line.get("session")
    if not isinstance(session, str) or not session:
        raise _LineError(f"session is {session!r}, expected a non-empty string")
    t_s = line.get("t_s")
    if isinstance(t_s, bool) or not isinstance(t_s, int | float) or not math.isfinite(t_s) or t_s < 0:
        raise _LineError(f"t_s is {t_s!r}, expected seconds, 0 or more")
    _check_content(line, op)
    tokens, parts = line.get("tokens"), line.get("parts")
    return Event(
        t_s=float(t_s),
        session=session,
        op=cast(Op, op),
        text=line.get("text"),
        tokens=None if tokens is None else tuple(tokens),
        n_tokens=line.get("n_tokens"),
        parts=None if parts is None else tuple((name, count) for name, count in parts),
        max_tokens=line.get("max_tokens"),
        keep_chars=line.get("keep_chars", 0),
        keep_tokens=line.get("keep_tokens", 0),
        note=str(line.get("note", "")),
    )


def _check_content(line: dict[str, Any], op: str) -> None:
    given = [key for key in _CONTENT_KEYS if key in line]
    if len(given) > 1:
        raise _LineError(f"{' and '.join(given)} are given, expected one of them at most")
    if op == "finish" and given:
        raise _LineError(f"finish carries {given[0]}, expected none (put it in an append before)")
    if op in ("append", "update") and not given:
        raise _LineError(f"{op} has no content, expected one of {', '.join(_CONTENT_KEYS)}")
    if "text" in line and not isinstance(line["text"], str):
        raise _LineError(f"text is a {type(line['text']).__name__}, expected a string")
    tokens = line.get("tokens", [])
    if not isinstance(tokens, list) or not all(type(token) is int and token >= 0 for token in tokens):
        raise _LineError("tokens is expected to be a list of integers, 0 or more")
    parts = line.get("parts", [])
    if not isinstance(parts, list) or not all(map(_is_part, parts)):
        raise _LineError('parts is expected to be a list of [name, count], such as ["page 7", 512]')
    for key, minimum, allowed in (
        ("n_tokens", 0, OPS),
        ("max_tokens", 1, ("open",)),
        ("keep_chars", 0, ("update",)),
        ("keep_tokens", 0, ("update",)),
    ):
        value = line.get(key, minimum)
        if type(value) is not int or value < minimum:
            raise _LineError(f"{key} is {value!r}, expected an integer, {minimum} or more")
        if key in line and op not in allowed:
            raise _LineError(f"{key} with {op}, expected only with {' or '.join(allowed)}")
    if ("keep_chars" in line and "text" not in line) or (
        "keep_tokens" in line and not {"text", "parts"}.isdisjoint(line)
    ):
        raise _LineError("keep_chars goes with text, keep_tokens with tokens or n_tokens")


def _is_part(value: Any) -> bool:
    """True for `[name, count]`."""
    match value:
        case [str() as name, int() as count]:
            return bool(name) and type(count) is int and count >= 0
    return False
