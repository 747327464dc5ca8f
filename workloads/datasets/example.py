"""One session as an example: columns of equal length, one entry an event, and flat columns for what is longer."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from workloads.trace import OPS, Event, Session

Example = Mapping[str, Any]

KINDS = ("", "text", "tokens", "n_tokens", "parts")
"""What an event brings, by its number in the column `kind`."""
INTEGER_COLUMNS = ("t_us", "op", "max_tokens", "keep", "kind", "count", "tokens", "part_tokens")
TEXT_COLUMNS = ("note", "text", "part_names")


def to_example(session: Session) -> dict[str, Any]:
    """A session's columns.

    Returns:
      `session`, its id; for each event `t_us` (microseconds: TFDS keeps floating-point numbers in single precision),
      `op` (its place in `OPS`), `max_tokens` (0 for none), `keep` (characters or tokens), `note`, `kind`, `text`, and
      `count`: of tokens or parts. `tokens`, `part_names` and `part_tokens` hold those of all events.
    """
    events = session.events
    parts = [part for event in events for part in event.parts or ()]
    columns: dict[str, Any] = {
        "t_us": [round(event.t_s * 1e6) for event in events],
        "op": [OPS.index(event.op) for event in events],
        "max_tokens": [event.max_tokens or 0 for event in events],
        "keep": [event.keep_chars or event.keep_tokens for event in events],
        "kind": [_kind(event) for event in events],
        "count": [_count(event) for event in events],
        "tokens": [token for event in events for token in event.tokens or ()],
        "part_tokens": [count for _, count in parts],
        "note": [event.note for event in events],
        "text": [event.text or "" for event in events],
        "part_names": [name for name, _ in parts],
    }
    arrays = {name: np.array(columns[name], np.int64) for name in INTEGER_COLUMNS}
    return {"session": session.session, **arrays, **{name: np.array(columns[name], object) for name in TEXT_COLUMNS}}


def from_example(example: Example) -> Session:
    """The session; its times are exact to the microsecond, as in a trace's file."""
    name = _text(example["session"])
    columns = {key: example[key].tolist() for key in (*INTEGER_COLUMNS, *TEXT_COLUMNS)}
    tokens = iter(columns["tokens"])
    parts = zip(map(_text, columns["part_names"]), columns["part_tokens"], strict=True)
    by_event = ("t_us", "op", "max_tokens", "keep", "kind", "count", "note", "text")
    rows = zip(*(columns[key] for key in by_event), strict=True)
    return Session(name, tuple(_events(name, rows, tokens, parts)))


def _events(
    name: str, rows: Iterator[tuple[Any, ...]], tokens: Iterator[int], parts: Iterator[tuple[str, int]]
) -> Iterator[Event]:
    for t_us, op, max_tokens, keep, kind, count, note, text in rows:
        content: dict[str, Any] = {}
        match KINDS[kind]:
            case "text":
                content = {"text": _text(text), "keep_chars": keep}
            case "tokens":
                content = {"tokens": tuple(islice(tokens, count)), "keep_tokens": keep}
            case "n_tokens":
                content = {"n_tokens": count, "keep_tokens": keep}
            case "parts":
                content = {"parts": tuple(islice(parts, count))}
        yield Event(t_us / 1e6, name, OPS[op], max_tokens=max_tokens or None, note=_text(note), **content)


def _kind(event: Event) -> int:
    return next((number for number, kind in enumerate(KINDS) if kind and getattr(event, kind) is not None), 0)


def _count(event: Event) -> int:
    if event.n_tokens is not None:
        return event.n_tokens
    return len(event.tokens or event.parts or ())


def _text(value: str | bytes) -> str:
    """TFDS gives texts back as bytes."""
    return value.decode() if isinstance(value, bytes) else value
