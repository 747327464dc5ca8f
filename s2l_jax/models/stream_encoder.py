"""Tokens of a text that arrives in pieces and is replaced from the middle."""

from array import array
from bisect import bisect_right

import numpy as np

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models.tokenizer import RestartRule, Tokenizer, utf8


class StreamEncoder:
    """Keeps a growing text and its tokens; after each change the tokens are those of the whole text.

    Only what a change can reach is tokenized again: the text behind the last starting point that the tokenizer's
    `restart_rule` allows, or all of it if there is no rule. Not thread-safe; one per session.

    Args:
      tokenizer: shared, immutable.
      add_bos: begin with the begin-of-sequence token.

    Raises:
      InvalidArgument: `add_bos` for a model without such a token.
    """

    def __init__(self, tokenizer: Tokenizer, *, add_bos: bool = False) -> None:
        self._tokenizer = tokenizer
        self._text = ""
        self._ids = array("i", tokenizer.encode("", add_bos=add_bos).tolist())
        self._head = len(self._ids)  # tokens before the text
        self._piece_chars = array("i")
        self._piece_tokens = array("i")  # not counting the head

    @property
    def text(self) -> str:
        """The whole text."""
        return self._text

    @property
    def tokens(self) -> np.ndarray:
        """Token ids of the whole text, int32 `[n]`; a copy."""
        return np.array(self._ids, np.int32)

    def __len__(self) -> int:
        return len(self._ids)

    def append(self, text: str) -> tuple[int, np.ndarray]:
        """Adds text at the end.

        Returns:
          `(keep, tail)`: the first `keep` of the tokens so far stay, and `tail`, int32 `[m]`, follows them. A
          begin-of-sequence token is in the tail of the first call.

        Raises:
          InvalidArgument: the text is not valid Unicode; nothing has changed.
        """
        return self.update(len(self._text), text)

    def update(self, keep_chars: int, text: str) -> tuple[int, np.ndarray]:
        """Replaces everything behind the first `keep_chars` characters by `text`.

        Text that is the same as before is found and not tokenized again, even behind `keep_chars`.

        Returns:
          `(keep, tail)` as `append` does.

        Raises:
          InvalidArgument: fewer than `keep_chars` characters are there, or the text is not valid Unicode; nothing has
            changed.
        """
        if not 0 <= keep_chars <= len(self._text):
            raise InvalidArgument(f"keep_chars is {keep_chars}, but the text so far has {len(self._text)} characters")
        utf8(text)
        same = keep_chars + common_prefix(self._text[keep_chars:], text)
        new_text = self._text[:keep_chars] + text
        pieces, char, token = self._starting_point(same)
        fresh = self._tokenizer.encode_pieces(new_text[char:])

        old_tail = np.array(self._ids[self._head + token :], np.int32)
        equal = common_prefix(old_tail, fresh.ids)
        keep = self._head + token + equal if self._text else 0
        self._text = new_text
        del self._ids[self._head + token :], self._piece_chars[pieces:], self._piece_tokens[pieces:]
        self._ids.frombytes(fresh.ids.tobytes())
        self._piece_chars.frombytes((fresh.chars + np.int32(char)).tobytes())
        self._piece_tokens.frombytes((fresh.tokens + np.int32(token)).tobytes())
        return keep, np.array(self._ids[keep:], np.int32)

    def _starting_point(self, same_chars: int) -> tuple[int, int, int]:
        """Where to begin if only the first `same_chars` characters stay: `(index of the piece, character, token)`."""
        rule: RestartRule | None = self._tokenizer.restart_rule
        if rule is None:
            return 0, 0, 0
        index = bisect_right(self._piece_chars, same_chars - rule.margin_chars) - 1 - rule.pieces
        if index < 0:
            return 0, 0, 0
        return index, self._piece_chars[index], self._piece_tokens[index]


def common_prefix[S: (str, np.ndarray)](left: S, right: S) -> int:
    """Number of leading elements that are equal."""
    size = min(len(left), len(right))
    if isinstance(left, np.ndarray):
        different = np.flatnonzero(left[:size] != right[:size])
        return int(different[0]) if len(different) else size
    low, high = 0, size  # the first `low` are equal, more than `high` are not
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
