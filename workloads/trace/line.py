"""One line of a trace: parsed, and checked as far as it can be by itself."""

import json
import math
from typing import Any, cast

from workloads.trace.event import CONTENT_KEYS, OPS, TRACE_VERSION, Event, Header, Op

_EVENT_KEYS = frozenset({"t_s", "session", "op", "max_tokens", "keep_chars", "keep_tokens", "note", *CONTENT_KEYS})


class LineError(Exception):
    """What is wrong with a line; file and line number are added by the reader."""


def parse_object(line: bytes) -> dict[str, Any]:
    """The line as JSON.

    Raises:
      LineError: it is no JSON object.
    """
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LineError(f"not JSON ({error}); expected one JSON object a line") from None
    if not isinstance(value, dict):
        raise LineError(f"is a {type(value).__name__}; expected a JSON object")
    return value


def parse_header(line: dict[str, Any]) -> Header:
    """The first line.

    Raises:
      LineError: it is not the header of a trace of this version.
    """
    version = line.pop("s2l_trace", None)
    if version != TRACE_VERSION:
        raise LineError(f'expected a header line with "s2l_trace": {TRACE_VERSION}, found {version!r}')
    return Header(str(line.pop("name", "")), str(line.pop("source", "")), line)


def parse_event(line: dict[str, Any]) -> Event:
    """Any other line.

    Raises:
      LineError: a field is unknown, missing, of the wrong type, or does not go with the others.
    """
    if unknown := sorted(set(line) - _EVENT_KEYS):
        raise LineError(f"unknown field {unknown[0]!r}; expected some of {', '.join(sorted(_EVENT_KEYS))}")
    op = line.get("op")
    if op not in OPS:
        raise LineError(f"op is {op!r}, expected one of {', '.join(OPS)}")
    session = line.get("session")
    if not isinstance(session, str) or not session:
        raise LineError(f"session is {session!r}, expected a non-empty string")
    t_s = line.get("t_s")
    if isinstance(t_s, bool) or not isinstance(t_s, int | float) or not math.isfinite(t_s) or t_s < 0:
        raise LineError(f"t_s is {t_s!r}, expected seconds, 0 or more")
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
    given = [key for key in CONTENT_KEYS if key in line]
    if len(given) > 1:
        raise LineError(f"{' and '.join(given)} are given, expected one of them at most")
    if op == "finish" and given:
        raise LineError(f"finish carries {given[0]}, expected none (put it in an append before)")
    if op in ("append", "update") and not given:
        raise LineError(f"{op} has no content, expected one of {', '.join(CONTENT_KEYS)}")
    if "text" in line and not isinstance(line["text"], str):
        raise LineError(f"text is a {type(line['text']).__name__}, expected a string")
    tokens = line.get("tokens", [])
    if not isinstance(tokens, list) or not all(type(token) is int and token >= 0 for token in tokens):
        raise LineError("tokens is expected to be a list of integers, 0 or more")
    parts = line.get("parts", [])
    if not isinstance(parts, list) or not all(map(_is_part, parts)):
        raise LineError('parts is expected to be a list of [name, count], such as ["page 7", 512]')
    for key, minimum, allowed in (
        ("n_tokens", 0, OPS),
        ("max_tokens", 1, ("open",)),
        ("keep_chars", 0, ("update",)),
        ("keep_tokens", 0, ("update",)),
    ):
        value = line.get(key, minimum)
        if type(value) is not int or value < minimum:
            raise LineError(f"{key} is {value!r}, expected an integer, {minimum} or more")
        if key in line and op not in allowed:
            raise LineError(f"{key} with {op}, expected only with {' or '.join(allowed)}")
    if ("keep_chars" in line and "text" not in line) or (
        "keep_tokens" in line and not {"text", "parts"}.isdisjoint(line)
    ):
        raise LineError("keep_chars goes with text, keep_tokens with tokens or n_tokens")


def _is_part(value: Any) -> bool:
    """True for `[name, count]`."""
    match value:
        case [str() as name, int() as count]:
            return bool(name) and type(count) is int and count >= 0
    return False
