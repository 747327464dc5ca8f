"""The tokenizer protocol, and the byte-level tokenizer of the tiny test model."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from s2l_jax.core.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class RestartRule:
    """Where tokenization may be taken up again when text is added behind what was tokenized already.

    A piece that begins at character `b` may be a starting point if at least `pieces` further pieces begin after it, the
    last of them at least `margin_chars` before the end of the text that stays as it is. Tokens before `b` are then the
    same for every continuation, and the tokens behind it are those of the text from `b` on, tokenized by itself.

    Attributes:
      pieces: pieces that must begin after the starting point.
      margin_chars: characters that must lie between the last of these beginnings and the end.
    """

    pieces: int
    margin_chars: int


@dataclass(frozen=True, slots=True)
class Pieces:
    """Tokens of a text, and the pieces (words, numbers, runs of spaces) that were tokenized independently.

    Attributes:
      ids: int32 `[n]` token ids of the whole text.
      chars: int32 `[p]` character position at which each usable piece begins, rising.
      tokens: int32 `[p]` index of the first token of each of these pieces.
    """

    ids: np.ndarray
    chars: np.ndarray
    tokens: np.ndarray


class Tokenizer(Protocol):
    """Text to token ids and back. Implementations are immutable and may be used from several threads."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id that has a meaning."""

    @property
    def bos_token_id(self) -> int | None:
        """Begin-of-sequence token, None if the model has none."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end generation."""

    @property
    def adds_bos(self) -> bool:
        """True if the model was trained to see a begin-of-sequence token before plain text."""

    @property
    def restart_rule(self) -> RestartRule | None:
        """Where tokenization may be taken up again; None if only the whole text gives the right tokens."""

    @property
    def strips_leading_space(self) -> bool:
        """True if decoding removes one space at the beginning, because encoding puts one there."""

    def encode(self, text: str, *, add_bos: bool = False) -> np.ndarray:
        """Token ids, int32 `[n]`; special tokens spelled out in the text become these special tokens.

        Raises:
          InvalidArgument: the text is not valid Unicode (it has lone surrogates).
        """

    def encode_pieces(self, text: str) -> Pieces:
        """The same token ids, with the pieces from which tokenization may be taken up again."""

    def token_bytes(self, token_id: int, *, skip_special: bool = True) -> bytes:
        """UTF-8 bytes of a token, maybe a part of a character; empty for unknown tokens, and for special ones."""

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of the tokens; bytes that are not valid UTF-8 become U+FFFD."""


def decode_tokens(tokenizer: Tokenizer, ids: Iterable[int], *, skip_special: bool = True) -> str:
    """The text of tokens from the bytes of each: what every `Tokenizer.decode` does."""
    text = b"".join(tokenizer.token_bytes(int(i), skip_special=skip_special) for i in ids).decode("utf-8", "replace")
    return text.removeprefix(" ") if tokenizer.strips_leading_space else text


def utf8(text: str) -> bytes:
    """The text in UTF-8.

    Raises:
      InvalidArgument: the text has lone surrogates.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            f"text is not valid Unicode: lone surrogate U+{ord(text[error.start]):04X} at character {error.start}"
        ) from None


class ByteTokenizer:
    """One token a byte (ids 0 to 255), then begin and end of sequence. Special tokens have no spelling."""

    vocab_size = 258
    bos_token_id = 256
    eos_token_ids = frozenset({257})
    adds_bos = False
    restart_rule = RestartRule(pieces=0, margin_chars=0)
    strips_leading_space = False

    def encode(self, text: str, *, add_bos: bool = False) -> np.ndarray:
        """Token ids, int32 `[n]`."""
        ids = np.frombuffer(utf8(text), np.uint8).astype(np.int32)
        return np.concatenate([np.array([self.bos_token_id], np.int32), ids]) if add_bos else ids

    def encode_pieces(self, text: str) -> Pieces:
        """The same token ids; each character is a piece."""
        ids = self.encode(text)
        starts = np.flatnonzero((ids & 0xC0) != 0x80).astype(np.int32)
        return Pieces(ids, np.arange(len(starts), dtype=np.int32), starts)

    def token_bytes(self, token_id: int, *, skip_special: bool = True) -> bytes:
        """The byte itself; nothing for other ids."""
        return bytes((token_id,)) if 0 <= token_id < 256 else b""

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of the tokens."""
        return decode_tokens(self, ids, skip_special=skip_special)
