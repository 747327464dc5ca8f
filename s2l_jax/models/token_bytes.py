"""The bytes a token stands for, read off a `tokenizer.json`'s decoder.

Text comes out of bytes and not out of strings of tokens, because a character may be spread over several tokens, and
bytes are the only form in which tokens can be joined one by one.
"""

from collections.abc import Callable
from typing import Any

from s2l_jax.core.errors import InvalidArgument

SPACE_MARK = "▁"


def byte_alphabet() -> dict[str, int]:
    """The characters with which byte-level vocabularies write bytes.

    Visible Latin-1 characters stand for themselves; the other bytes, in order, take the characters from U+0100 on.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(b): b for b in visible} | {chr(0x100 + i): b for i, b in enumerate(hidden)}


def token_to_bytes(decoder: dict[str, Any] | None) -> tuple[Callable[[str], bytes], bool]:
    """Turns the `decoder` of a tokenizer.json into `(token's spelling -> bytes, whether a leading space is stripped)`.

    Raises:
      InvalidArgument: the decoder is of a kind that is not known to work token by token.
    """
    steps = _steps(decoder)
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return _byte_level(byte_alphabet()), False
    if kinds == ["Metaspace"]:
        strips = steps[0].get("prepend_scheme", "always") != "never" and steps[0].get("add_prefix_space", True)
        return _space_mark(steps[0].get("replacement", SPACE_MARK), byte_fallback=False), bool(strips)
    if set(kinds) <= {"Replace", "ByteFallback", "Fuse", "Strip"} and kinds.count("Replace") == 1:
        replace = next(step for step in steps if step["type"] == "Replace")
        strip = [step for step in steps if step["type"] == "Strip"]
        plain = replace["content"] == " " and all((s["content"], s["start"], s["stop"]) == (" ", 1, 0) for s in strip)
        if plain and "String" in replace["pattern"] and len(strip) <= 1:
            return _space_mark(replace["pattern"]["String"], byte_fallback="ByteFallback" in kinds), bool(strip)
    raise InvalidArgument(
        f"tokenizer.json: decoder {' + '.join(kinds) or 'none'} is not supported; "
        "supported are ByteLevel, Metaspace, and Replace + ByteFallback + Fuse + Strip"
    )


def _steps(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [step for inner in decoder["decoders"] for step in _steps(inner)]
    return [decoder]


def _byte_level(alphabet: dict[str, int]) -> Callable[[str], bytes]:
    def spelled(token: str) -> bytes:
        try:
            return bytes(alphabet[char] for char in token)
        except KeyError:  # an added token, spelled as plain text
            return token.encode("utf-8")

    return spelled


def _space_mark(mark: str, *, byte_fallback: bool) -> Callable[[str], bytes]:
    def spelled(token: str) -> bytes:
        if byte_fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            try:
                return bytes((int(token[3:5], 16),))
            except ValueError:
                return token.encode("utf-8")
        return token.replace(mark, " ").encode("utf-8")

    return spelled
