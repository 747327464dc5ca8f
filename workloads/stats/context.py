"""The growing context of a session, as far as statistics need it: its size, what updates keep, what others have too."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from s2l_jax.core.tokens import common_prefix
from workloads.trace import Event, Part

_BLOCK_TOKENS = 64
_NOTHING = np.empty(0, np.int32)
_UNKNOWN = "\0"  # begins the names of parts that nobody else has

Unit = tuple[str | bytes, int]
"""A stretch of a context that can be told from others, and its tokens."""


class TokenContext:
    """A context of token ids; compared in blocks of 64."""

    def __init__(self) -> None:
        self._tokens = _NOTHING

    @property
    def size(self) -> int:
        """Tokens."""
        return len(self._tokens)

    def change(self, event: Event) -> int:
        """Takes an event's content; returns how many of the tokens before it stay."""
        new, old = np.array(event.tokens, np.int32), self._tokens
        keep = event.keep_tokens if event.op == "update" else len(old)
        self._tokens = np.concatenate([old[:keep], new])
        return keep + common_prefix(old[keep:], new)

    def units(self) -> Iterator[Unit]:
        """The context in order."""
        for begin in range(0, len(self._tokens), _BLOCK_TOKENS):
            block = self._tokens[begin : begin + _BLOCK_TOKENS]
            yield block.tobytes(), len(block)


class PartContext:
    """A context of named parts; content of which only the size is known is a part that nobody else has."""

    _numbers = itertools.count()

    def __init__(self) -> None:
        self._parts: list[Part] = []

    @property
    def size(self) -> int:
        """Tokens."""
        return sum(count for _, count in self._parts)

    def change(self, event: Event) -> int:
        """Takes an event's content; returns how many of the tokens before it stay."""
        old = self._parts
        new = [(f"{_UNKNOWN}{next(self._numbers)}", event.size)] if event.parts is None else list(event.parts)
        if event.op != "update":
            self._parts = [*old, *new]
        else:
            self._parts = [*_first(old, event.keep_tokens), *new]
        return _common(old, self._parts)

    def units(self) -> Iterator[Unit]:
        """The context in order."""
        return iter(self._parts)


Context = TokenContext | PartContext


def context_for(events: Sequence[Event]) -> Context:
    """An empty context of the kind that a session's content needs."""
    is_tokens = all(event.tokens is not None for event in events if event.has_content)
    return TokenContext() if is_tokens else PartContext()


def _first(parts: Sequence[Part], tokens: int) -> Iterator[Part]:
    """The parts that make up the first so many tokens."""
    for name, count in parts:
        if tokens <= 0:
            return
        yield name, min(count, tokens)
        tokens -= count


def _common(old: Sequence[Part], new: Sequence[Part]) -> int:
    """Tokens of the longest common prefix."""
    tokens = 0
    for (old_name, old_count), (new_name, new_count) in zip(old, new, strict=False):
        if old_name != new_name:
            break
        tokens += min(old_count, new_count)
        if old_count != new_count:
            break
    return tokens


class Shared:
    """Counts what sessions have in common with those before them.

    Attributes:
      tokens: of all contexts.
      prefix_tokens: of these, tokens at the beginning of a context that another one begins with, too.
      content_tokens: tokens of parts that another context has, wherever it has them.
      knows_content: False if some content came as token ids, among which parts cannot be told.
    """

    def __init__(self) -> None:
        self.tokens = self.prefix_tokens = self.content_tokens = 0
        self.knows_content = True
        self._prefixes: set[int] = set()
        self._content: dict[str | bytes, int] = {}

    def add(self, context: Context) -> None:
        """Takes the complete context of the next session."""
        self.knows_content = self.knows_content and isinstance(context, PartContext)
        units = list(context.units())
        self.tokens += context.size
        self.prefix_tokens += self._count_prefix(units)
        self.content_tokens += sum(min(tokens, self._content.get(name, 0)) for name, tokens in units)
        for name, tokens in units:
            if not _is_unknown(name):
                self._content[name] = max(tokens, self._content.get(name, 0))

    def _count_prefix(self, units: Sequence[Unit]) -> int:
        chain, shared, is_shared = 0, 0, True
        for name, tokens in units:
            if _is_unknown(name):
                break
            chain = hash((chain, name, tokens))
            is_shared = is_shared and chain in self._prefixes
            self._prefixes.add(chain)
            shared += tokens * is_shared
        return shared


def _is_unknown(name: str | bytes) -> bool:
    return isinstance(name, str) and name.startswith(_UNKNOWN)
