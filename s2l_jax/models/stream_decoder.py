"""Text of tokens that come one by one."""

import codecs

from s2l_jax.models.tokenizer import Tokenizer


class StreamDecoder:
    """Turns tokens into text as they come, and never splits a character. Constant work per token; one per session.

    What `push` and the last `flush` return, put together, is `tokenizer.decode` of all tokens. An incomplete character
    waits for its other bytes; bytes that can no longer become a character are U+FFFD.

    Args:
      tokenizer: shared, immutable.
      continues: the tokens follow other text, so a leading space is kept even by tokenizers that strip it from the
        beginning of a text.
      skip_special: special tokens give no text.
    """

    def __init__(self, tokenizer: Tokenizer, *, continues: bool = False, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._strips = tokenizer.strips_leading_space and not continues
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The text that this token completes, maybe empty."""
        return self._strip(self._utf8.decode(self._tokenizer.token_bytes(token_id, skip_special=self._skip_special)))

    def flush(self) -> str:
        """What is left: U+FFFD if a character was never completed, else nothing."""
        return self._strip(self._utf8.decode(b"", final=True))

    def _strip(self, text: str) -> str:
        if not (self._strips and text):
            return text
        self._strips = False
        return text.removeprefix(" ")
