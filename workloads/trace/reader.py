"""Reads traces."""

import hashlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from workloads.trace.event import TRACE_VERSION, Event, Header, Session, Trace, TraceError
from workloads.trace.files import open_lines
from workloads.trace.line import LineError, parse_event, parse_header, parse_object
from workloads.trace.rules import SessionRules


@dataclass(frozen=True, slots=True)
class Checked:
    """What checking a whole file gave.

    Attributes:
      header: what the trace says of itself.
      sessions: how many there are.
      events: how many there are.
      end_s: time of the last event.
      problems: what is wrong, each with file and line, as many as were asked for.
    """

    header: Header
    sessions: int
    events: int
    end_s: float
    problems: tuple[str, ...]


def read_events(path: Path) -> Iterator[Header | Event]:
    """Reads a trace line by line, checking each: first the header, then the events.

    Raises:
      TraceError: a line is wrong, or a session is left open at the end.
    """
    return _read(path, SessionRules(), _raise)


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


def check_trace(path: Path, limit: int = 20) -> Checked:
    """Reads a whole file and collects what is wrong with it, up to `limit` problems.

    Raises:
      TraceError: the file cannot be opened.
    """
    problems: list[str] = []
    rules = SessionRules()
    header, events, end_s = Header(""), 0, 0.0
    for item in _read(path, rules, problems.append):
        if isinstance(item, Header):
            header = item
        else:
            events, end_s = events + 1, max(end_s, item.t_s)
        if len(problems) >= limit:
            break
    if not events and not problems:
        problems.append(f"{path}: no events; expected at least one session")
    return Checked(header, rules.sessions, events, end_s, tuple(problems[:limit]))


def _read(path: Path, rules: SessionRules, report: Callable[[str], None]) -> Iterator[Header | Event]:
    """Yields what could be read, reports what is wrong."""
    try:
        file = open_lines(path)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}; expected a trace file (JSON lines)") from error
    number = 0
    with file:
        try:
            for number, line in enumerate(file, start=1):
                try:
                    if number == 1:
                        yield parse_header(parse_object(line))
                    elif line.strip():
                        event = parse_event(parse_object(line))
                        rules.check(event)
                        yield event
                except LineError as error:
                    report(f"{path}:{number}: {error}")
        except (OSError, EOFError, zlib.error) as error:  # a compressed file that is none, or is cut off
            report(f"{path}: cannot be read after line {number} ({error}); expected a trace file")
    if number == 0:
        report(f'{path}: empty; expected a header line such as {{"s2l_trace": {TRACE_VERSION}, "name": ...}}')
    for session in rules.unfinished():
        report(f"{path}:{number}: ends without a finish for session {session!r}")


def _raise(problem: str) -> None:
    raise TraceError(problem)
