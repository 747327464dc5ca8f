"""Puts content into sessions that so far name what they are about."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from workloads.generate.tokens import TokenSource
from workloads.trace import Event, Part, Session

TEMPLATE = "template"
"""Name of what stands before the documents of every session; what stands behind them is `question SESSION`."""
QUESTION = "question"
TextSource = Callable[[str, int], str]
"""Called as `source(name, count)`: the beginning of the text of this name, about `count` tokens long."""
Source = TokenSource | TextSource


def by_size(session: Session) -> Session:
    """The session with sizes in place of names."""
    return replace(session, events=tuple(_sized(event) for event in session.events))


def _sized(event: Event) -> Event:
    return replace(event, parts=None, n_tokens=sum(count for _, count in event.parts or ()) or None)


def filled(session: Session, source: Source) -> Session:
    """The session with tokens or text in place of names; an update brings what differs from the context before.

    Args:
      session: all its content is `parts`.
      source: of each part's content.
    """
    context: Any = None
    events = []
    for event in session.events:
        if event.parts:
            content = _joined(event.parts, source)
            keep = 0
            if event.op == "update" and context is not None:
                keep = common_prefix(context, content)
            context = content if event.op == "update" or context is None else context + content
            event = _with(event, content[keep:], keep)  # noqa: PLW2901
        events.append(event)
    return replace(session, events=tuple(events))


def _joined(parts: Sequence[Part], source: Source) -> Any:
    pieces: list[Any] = [source(name, count) for name, count in parts]
    return "".join(pieces) if isinstance(pieces[0], str) else sum(pieces, ())


def _with(event: Event, content: Any, keep: int) -> Event:
    if isinstance(content, str):
        return replace(event, parts=None, text=content, keep_chars=keep)
    nothing = event.op == "open" and not content
    return replace(event, parts=None, tokens=None if nothing else content, keep_tokens=keep)


def common_prefix(old: Sequence[Any], new: Sequence[Any]) -> int:
    """Length of the longest common prefix of two texts, or of two tuples."""
    shortest, longest = 0, min(len(old), len(new))
    while shortest < longest:
        middle = (shortest + longest + 1) // 2
        if old[shortest:middle] == new[shortest:middle]:
            shortest = middle
        else:
            longest = middle - 1
    return shortest
