"""Decides how the texts of a session are written: as text, as tokens of a model, or by names and sizes."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models.stream_encoder import StreamEncoder
from s2l_jax.models.tokenizer import Tokenizer
from workloads.readers.found import TextEvent, TextPiece
from workloads.trace import Event, Part

Drafted = Sequence[Event | TextEvent]


@dataclass(frozen=True, slots=True)
class Encoding:
    """A way to write texts.

    Attributes:
      tokens: what the header says of tokens; empty for text.
      made_up: what it makes up.
      encode: makes the events of a whole session; those that bring no text stay as they are.
    """

    tokens: str
    made_up: tuple[str, ...]
    encode: Callable[[Drafted], tuple[Event, ...]]


def text_encoding() -> Encoding:
    """Keeps text; an update brings what follows the part that stays."""
    return Encoding("", (), _as_text)


def token_encoding(tokenizer: Tokenizer, model: str) -> Encoding:
    """Turns text into token ids: after each event those of the whole text, as a server has them.

    So an append whose text merges with the tokens before it becomes an update that keeps all but those.
    """

    def encode(events: Drafted) -> tuple[Event, ...]:
        encoder = StreamEncoder(tokenizer)
        return tuple(_as_tokens(event, encoder) for event in _as_text(events))

    return Encoding(model, (), encode)


def size_encoding(tokens_per_char: float) -> Encoding:
    """Estimates sizes; texts keep their identity, so that what is shared stays shared.

    Raises:
      InvalidArgument: `tokens_per_char` is not above 0.
    """
    if not 0.0 < tokens_per_char < float("inf"):
        raise InvalidArgument(f"tokens_per_char is {tokens_per_char}, but must be above 0 (0.25 suits English)")

    def size(piece: TextPiece) -> Part:
        return piece.name, max(1, round(len(piece.text) * tokens_per_char))

    def encode(events: Drafted) -> tuple[Event, ...]:
        return tuple(event if isinstance(event, Event) else _as_sizes(event, size) for event in events)

    tokens = f"estimated, {tokens_per_char:g} a character"
    return Encoding(tokens, (f"tokens of texts ({tokens})",), encode)


def _as_text(events: Drafted) -> tuple[Event, ...]:
    written: list[Event] = []
    context: list[TextPiece] = []
    for event in events:
        if isinstance(event, Event):
            written.append(event)
            continue
        keep_chars, text = 0, "".join(piece.text for piece in event.pieces)
        if event.op == "update":
            keep_chars = _common_chars(context, event.pieces)
            text, context = text[keep_chars:], []
        context += event.pieces
        content = text if event.pieces or event.op == "update" else None
        written.append(
            Event(
                event.t_s,
                event.session,
                event.op,
                text=content,
                keep_chars=keep_chars,
                max_tokens=event.max_tokens,
                note=event.note,
            )
        )
    return tuple(written)


def _as_tokens(event: Event, encoder: StreamEncoder) -> Event:
    if event.text is None:
        return event
    before = len(encoder)
    if event.op == "update":
        keep, tail = encoder.update(event.keep_chars, event.text)
    else:
        keep, tail = encoder.append(event.text)
    is_update = event.op == "update" or keep < before
    return replace(
        event,
        op="update" if is_update else event.op,
        text=None,
        keep_chars=0,
        tokens=tuple(tail.tolist()),
        keep_tokens=keep if is_update else 0,
    )


def _as_sizes(event: TextEvent, size: Callable[[TextPiece], Part]) -> Event:
    parts = tuple(size(piece) for piece in event.pieces if piece.text)
    content = parts if parts or event.op == "update" else None
    return Event(event.t_s, event.session, event.op, parts=content, max_tokens=event.max_tokens, note=event.note)


def _common_chars(old: Sequence[TextPiece], new: Sequence[TextPiece]) -> int:
    """Length of the longest common prefix."""
    chars = 0
    for left, right in zip(old, new, strict=False):
        if left != right:
            equal = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(left.text, right.text, strict=False))
            return chars + sum(1 for _ in equal)
        chars += len(left.text)
    return chars
