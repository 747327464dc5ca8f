"""A session's context as its client sends it: text or token ids, in pieces."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models.stream_encoder import StreamEncoder
from s2l_jax.models.tokenizer import Tokenizer
from s2l_jax.orchestrator.events import Content

_NO_TOKENS = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of the context in tokens: the first `keep` stay, `tail` follows them.

    Attributes:
      keep: tokens that stay.
      tail: int32 `[n]`, what comes behind them.
      undo: puts the context back, for an edit that was refused.
    """

    keep: int
    tail: np.ndarray
    undo: Callable[[], None]


class SessionContext:
    """Turns a client's pieces of context into edits of tokens.

    The first piece decides whether a session is text or token ids; a piece of the other kind is refused. Not
    thread-safe.

    Args:
      tokenizer: encodes text and bounds token ids.
      add_bos: begin with the model's begin-of-sequence token, if it has one. It is not counted in what clients keep.
    """

    def __init__(self, tokenizer: Tokenizer, *, add_bos: bool) -> None:
        self._tokenizer = tokenizer
        self._is_tokens = False
        self._encoder: StreamEncoder | None = None
        bos = tokenizer.bos_token_id
        self._head = np.asarray([] if bos is None or not add_bos else [bos], np.int32)
        self._length = len(self._head)

    @property
    def head(self) -> np.ndarray:
        """int32 `[0 or 1]`: the tokens before those of the client."""
        return self._head

    def append(self, content: Content) -> Edit:
        """Puts content at the end; None puts nothing.

        Raises:
          InvalidArgument: text and token ids are mixed, the text is not valid Unicode, or a token id is none of the
            vocabulary's. The context is as before.
        """
        if isinstance(content, str):
            return self._edit_text(None, content)
        if content is None:
            return Edit(self._length, _NO_TOKENS, _do_nothing)
        return self._edit_tokens(None, content)

    def update(self, content: Content, *, keep_tokens: int, keep_chars: int) -> Edit:
        """Replaces what follows the first `keep_tokens` tokens or `keep_chars` characters (Unicode code points).

        Raises:
          InvalidArgument: as `append`; or what is kept is counted in the wrong unit, negative, or more than there is.
        """
        if content is None:
            content = () if self._encoder is None else ""
        if isinstance(content, str):
            if keep_tokens:
                raise InvalidArgument(f"keep_tokens is {keep_tokens}, but the context is text: use keep_chars")
            return self._edit_text(keep_chars, content)
        if keep_chars:
            raise InvalidArgument(f"keep_chars is {keep_chars}, but the context is not text: use keep_tokens")
        return self._edit_tokens(keep_tokens, content)

    def _edit_text(self, keep_chars: int | None, text: str) -> Edit:
        if self._is_tokens:
            _refuse_mix("text", "token ids")
        encoder = StreamEncoder(self._tokenizer) if self._encoder is None else self._encoder
        before = encoder.text
        keep_chars = len(before) if keep_chars is None else keep_chars
        _check_keep("keep_chars", keep_chars, len(before), "characters")
        keep, tail = encoder.update(keep_chars, text)
        length, was = self._length, self._encoder
        head = len(self._head)

        def undo() -> None:
            encoder.update(keep_chars, before[keep_chars:])
            self._length, self._encoder = length, was

        self._encoder, self._length = encoder, head + keep + len(tail)
        return Edit(head + keep, tail, undo)

    def _edit_tokens(self, keep_tokens: int | None, ids: Sequence[int]) -> Edit:
        if self._encoder is not None:
            _refuse_mix("token ids", "text")
        tail = self._checked_ids(ids)
        head, length, was = len(self._head), self._length, self._is_tokens
        keep_tokens = length - head if keep_tokens is None else keep_tokens
        _check_keep("keep_tokens", keep_tokens, length - head, "tokens")

        def undo() -> None:
            self._length, self._is_tokens = length, was

        self._length, self._is_tokens = head + keep_tokens + len(tail), was or len(tail) > 0
        return Edit(head + keep_tokens, tail, undo)

    def _checked_ids(self, ids: Sequence[int]) -> np.ndarray:
        try:
            tokens = np.asarray(ids)
        except (ValueError, OverflowError) as error:
            raise InvalidArgument(f"content is no list of token ids: {error}") from error
        if tokens.size == 0:
            return _NO_TOKENS
        if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
            raise InvalidArgument(f"content is no list of token ids: {tokens.ndim} dimensions of {tokens.dtype}")
        bad = np.flatnonzero((tokens < 0) | (tokens >= self._tokenizer.vocab_size))
        if len(bad):
            raise InvalidArgument(
                f"token id {tokens[bad[0]]} at position {bad[0]} of the content is not in the vocabulary: ids are 0 to "
                f"{self._tokenizer.vocab_size - 1}"
            )
        return tokens.astype(np.int32)


def _check_keep(name: str, keep: int, there: int, unit: str) -> None:
    if not 0 <= keep <= there:
        raise InvalidArgument(f"{name} is {keep}, but the context has {there} {unit}: keep 0 to {there}")


def _refuse_mix(got: str, had: str) -> NoReturn:
    raise InvalidArgument(f"content is {got}, but this session's context is {had}: a session is one or the other")


def _do_nothing() -> None:
    """Undoes an edit that changed nothing."""
