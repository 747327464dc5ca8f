"""Our own format, read again to be cut, tokenized or compressed."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from workloads.readers.found import Draft, Found, Progress, ReadOptions, Source, TextEvent, TextPiece
from workloads.trace import Event, Header, read_events


def open_internal(path: Path, options: ReadOptions, progress: Progress) -> Source:
    """Reads a trace.

    Raises:
      TraceError: its header is wrong; later, another line is.
    """
    items = read_events(path)
    header = next(items)
    assert isinstance(header, Header)
    details = {key: value for key, value in header.details.items() if key != "made_up"}
    made_up = (header.made_up,) if header.made_up else ()
    return Source(header.name, header.source, made_up, _read(items, options, progress), details)


def _read(items: Iterator[Header | Event], options: ReadOptions, progress: Progress) -> Iterator[Found]:
    """Sessions in order of arrival: one that has ended waits for those that came before it."""
    sessions: dict[str, list[Event | TextEvent]] = {}
    contexts: dict[str, list[TextPiece]] = {}
    ended: set[str] = set()
    progress(0, 0)
    for event in items:
        assert isinstance(event, Event)
        if event.op == "open" and options.max_tokens is not None:
            event = replace(event, max_tokens=options.output_tokens(event.max_tokens))  # noqa: PLW2901
        context = contexts.setdefault(event.session, [])
        sessions.setdefault(event.session, []).append(_draft(event, context))
        if event.op == "finish":
            del contexts[event.session]
            ended.add(event.session)
        while sessions and (first := next(iter(sessions))) in ended:
            ended.remove(first)
            yield Draft(tuple(sessions.pop(first)))


def _draft(event: Event, context: list[TextPiece]) -> Event | TextEvent:
    """The event with its text, if it has one, in pieces; the context is changed accordingly."""
    if event.text is None:
        return event
    piece = TextPiece(hashlib.sha1(event.text.encode(errors="replace")).hexdigest()[:12], event.text)
    pieces = [piece] if event.text else []
    if event.op == "update":
        context[:] = [*_cut(context, event.keep_chars), *pieces]
        pieces = context
    else:
        context += pieces
    return TextEvent(event.t_s, event.session, event.op, tuple(pieces), event.max_tokens, event.note)


def _cut(pieces: list[TextPiece], chars: int) -> list[TextPiece]:
    """The first so many characters."""
    kept = []
    for piece in pieces:
        if chars <= 0:
            break
        kept.append(TextPiece(piece.name, piece.text[:chars]))
        chars -= len(piece.text)
    return kept
