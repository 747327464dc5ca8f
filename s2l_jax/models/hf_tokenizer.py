"""Tokenizers in the Hugging Face format (`tokenizer.json`)."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import tokenizers

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models.restart import begins_nfc_segment, restart_rule
from s2l_jax.models.token_bytes import token_to_bytes
from s2l_jax.models.tokenizer import Pieces, RestartRule, decode_tokens, utf8


class HFTokenizer:
    """A tokenizer of the library `tokenizers`.

    Begin-of-sequence tokens are added on request only, never by the post-processor, so that text in pieces and text at
    once are treated alike.

    Args:
      spec: the parsed tokenizer.json.
      bos_token_id: begin of sequence, None if the model has none.
      eos_token_ids: tokens that end generation.
      adds_bos: whether plain text begins with `bos_token_id`; None asks the post-processor.

    Raises:
      InvalidArgument: the library cannot read it, or the decoder is not supported.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        *,
        bos_token_id: int | None,
        eos_token_ids: frozenset[int],
        adds_bos: bool | None = None,
    ) -> None:
        try:
            whole = tokenizers.Tokenizer.from_str(json.dumps(spec))
            bare = spec | {"post_processor": None, "truncation": None, "padding": None}
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(bare))
        except Exception as error:
            raise InvalidArgument(f"tokenizer.json cannot be read: {error}") from error
        self.bos_token_id: int | None = bos_token_id
        self.eos_token_ids = eos_token_ids
        self.adds_bos: bool = whole.encode("").ids[:1] == [bos_token_id] if adds_bos is None else adds_bos
        self.vocab_size: int = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        self.restart_rule: RestartRule | None = restart_rule(spec)
        self._spelled, self.strips_leading_space = token_to_bytes(spec.get("decoder"))
        self._special = frozenset(t["id"] for t in spec.get("added_tokens") or [] if t["special"]) | eos_token_ids
        self._is_nfc = spec.get("normalizer") is not None
        self._bytes: dict[int, bytes] = {}

    def encode(self, text: str, *, add_bos: bool = False) -> np.ndarray:
        """Token ids, int32 `[n]`."""
        ids = np.array(self._encoding(text).ids, np.int32)
        if not add_bos:
            return ids
        if self.bos_token_id is None:
            raise InvalidArgument("this model has no begin-of-sequence token, so none can be added")
        return np.concatenate([np.array([self.bos_token_id], np.int32), ids])

    def encode_pieces(self, text: str) -> Pieces:
        """The same token ids, with the beginnings of pieces from which tokenization may be taken up again."""
        encoding = self._encoding(text)
        ids = np.array(encoding.ids, np.int32)
        if self.restart_rule is None:
            return Pieces(ids, np.zeros(0, np.int32), np.zeros(0, np.int32))
        words, offsets = np.array(encoding.word_ids, np.int32), encoding.offsets
        first = np.flatnonzero(np.diff(words, prepend=-1)).tolist()
        if self._is_nfc:
            # One character may become several with a cut between them, which is no place in the text.
            first = [i for i in first if i == 0 or offsets[i - 1][1] <= offsets[i][0]]
            first = [i for i in first if begins_nfc_segment(text[offsets[i][0]])]
        return Pieces(ids, np.array([offsets[i][0] for i in first], np.int32), np.array(first, np.int32))

    def token_bytes(self, token_id: int, *, skip_special: bool = True) -> bytes:
        """UTF-8 bytes of a token."""
        if skip_special and token_id in self._special:
            return b""
        known = self._bytes.get(token_id)
        if known is None:
            token = self._tokenizer.id_to_token(token_id) if token_id >= 0 else None
            known = b"" if token is None else self._spelled(token)
            self._bytes[token_id] = known
        return known

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of the tokens."""
        return decode_tokens(self, ids, skip_special=skip_special)

    def _encoding(self, text: str) -> tokenizers.Encoding:
        try:
            return self._tokenizer.encode(text, add_special_tokens=False)
        except TypeError:
            utf8(text)
            raise
