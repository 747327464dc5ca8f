r"""For which tokenizers can text be tokenized from the middle, and where?

Three things tie a token to what comes after it. *Added tokens* are cut out first, leftmost and longest: one that is
only half there changes the pieces around it once it is complete, but never further back than its own length.
*Pre-tokenizers* cut the rest into pieces: the patterns listed here go from left to right, never look back, and end a
piece by looking at no more than what the next two pieces cover; other patterns may do anything, so they get no rule.
The *model* sees one piece at a time. Normalization to NFC is local as well, if pieces are only taken up at characters
that never merge with the one before. Everything else (SentencePiece's space marks, prefix spaces, lower-casing) needs
the whole text.
"""

import unicodedata
from functools import cache
from typing import Any

from s2l_jax.models.tokenizer import RestartRule

_PIECES = 2
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SYMBOL = r"[^\r\n\p{L}\p{N}]?"

# The patterns of the families that are loaded here; each keeps to the reach of two pieces described above.
LOCAL_PATTERNS = frozenset(
    {
        # GPT-2, and everything derived from it
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        # Llama 3, Qwen 2 to 3
        rf"{_CONTRACTIONS}|{_SYMBOL}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",
        rf"{_CONTRACTIONS}|{_SYMBOL}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",
        # Mistral's Tekken
        rf"{_SYMBOL}{_UPPER}*{_LOWER}+|{_SYMBOL}{_UPPER}+{_LOWER}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}",
    }
)


def restart_rule(spec: dict[str, Any]) -> RestartRule | None:
    """The rule for a tokenizer.json, or None if the whole text must be tokenized each time.

    Args:
      spec: the parsed tokenizer.json.
    """
    added = spec.get("added_tokens") or []
    normalizer = spec.get("normalizer")
    if normalizer is not None and normalizer["type"] != "NFC":
        return None
    if any(token.get(flag) for token in added for flag in ("lstrip", "rstrip", "single_word")):
        return None
    if normalizer is not None and any(token.get("normalized", True) for token in added):
        return None
    if spec["model"]["type"] != "BPE" or spec["model"].get("dropout"):
        return None
    if not _is_local(_flatten(spec.get("pre_tokenizer"))):
        return None
    return RestartRule(_PIECES, max((len(token["content"]) for token in added), default=0) + 1)


@cache
def begins_nfc_segment(char: str) -> bool:
    """True if NFC never merges this character with one before it, nor moves it.

    Marks may merge or move; among the others in the basic plane only the Hangul letters do.
    """
    code = ord(char)
    return code < 0x80 or (code < 0x10000 and not 0x1100 <= code < 0x1200 and unicodedata.category(char)[0] in "LNPSZ")


def _flatten(pre_tokenizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    if pre_tokenizer is None:
        return []
    if pre_tokenizer["type"] == "Sequence":
        return [step for inner in pre_tokenizer["pretokenizers"] for step in _flatten(inner)]
    return [pre_tokenizer]


def _is_local(steps: list[dict[str, Any]]) -> bool:
    """Digits may come first: they cut at every digit or run of digits, wherever one begins. Then one known pattern."""
    if any(step["type"] not in {"Digits", "Split", "ByteLevel"} for step in steps):
        return False
    if any(step["type"] == "ByteLevel" and step.get("add_prefix_space", True) for step in steps):
        return False
    cutting = [step for step in steps if step["type"] != "ByteLevel" or step.get("use_regex", True)]
    while cutting and cutting[0]["type"] == "Digits":
        cutting = cutting[1:]
    if len(cutting) != 1:
        return False
    if cutting[0]["type"] == "ByteLevel":
        return True
    is_known = cutting[0]["pattern"].get("Regex") in LOCAL_PATTERNS
    return is_known and cutting[0]["behavior"] == "Isolated" and not cutting[0]["invert"]
