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
    """Turns text into token ids, in the end those of the whole text, as a server has them.

    Tokens at the end of a piece that merge with what is appended later come with that, so that appends stay appends.
    """

    def encode(events: Drafted) -> tuple[Event, ...]:
        encoder = StreamEncoder(tokenizer)
        written = [_as_tokens(event, encoder) for event in _as_text(events)]
        for number in range(len(written) - 1, 0, -1):
            written[number - 1 : number + 1] = _settled(*written[number - 1 : number + 1])
        return tuple(event for event, _ in written)

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


_Written = tuple[Event, int]
"""`(event, merged)`: so many of the tokens before an append are no more, as they have merged with what it brings."""


def _as_tokens(event: Event, encoder: StreamEncoder) -> _Written:
    """The event in tokens; an append that merges with tokens before it is an update that keeps the others."""
    if event.text is None:
        return event, 0
    before = len(encoder)
    keep, tail = encoder.update(event.keep_chars, event.text) if event.op == "update" else encoder.append(event.text)
    merged = 0 if event.op == "update" else before - keep
    op = "update" if merged else event.op
    keep_tokens = keep if op == "update" else 0
    tokens = tuple(tail.tolist())
    return replace(event, op=op, text=None, keep_chars=0, tokens=tokens, keep_tokens=keep_tokens), merged


def _settled(first: _Written, second: _Written) -> tuple[_Written, _Written]:
    """Takes from the first event what merges with the second, which is then an append again; if it has that much."""
    (one, one_merged), (two, merged) = first, second
    if not merged or one.tokens is None or len(one.tokens) < merged:
        return first, second
    appended = replace(two, op="append", keep_tokens=0)
    return (replace(one, tokens=one.tokens[: len(one.tokens) - merged]), one_merged), (appended, 0)


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
