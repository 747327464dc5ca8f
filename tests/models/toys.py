"""Small tokenizers whose merges ignore word boundaries, so that a wrong cut shows, and the texts to try them on."""

import json
from functools import cache

from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from s2l_jax.models.hf_tokenizer import HFTokenizer
from s2l_jax.models.restart import LOCAL_PATTERNS

SPECIALS = ["<|im_start|>", "<|im_end|>", "<|im_end|>|", "<s>"]
CORPUS = (
    "The Quick brown fox's tail — it'll've 'been 12345 67 8   spaces\n\n  \t\n tabs\r\n\r\nHELLO Wörld ÉCOLE"
    " 你好，世界。한국어 e\u0301 \u1100\u1161\u11a8 !!?? ...// <|im_start|>user\n|> ||>> 'll 'LL ſ ǅ ʰ ९९ ½\n" * 8
)


@cache
def byte_level_model() -> dict:
    """Vocabulary and merges learned without any cut between words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([CORPUS[i : i + 37] for i in range(0, len(CORPUS), 11)], trainer)
    return json.loads(tokenizer.to_str())["model"]


def byte_level_spec(pre_tokenizer: dict, normalizer: dict | None = None) -> dict:
    model = byte_level_model()
    added = [
        {"id": len(model["vocab"]) + i, "content": content, "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for i, content in enumerate(SPECIALS)
    ]
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": model,
    }


def byte_level_step(*, use_regex: bool = True, add_prefix_space: bool = False) -> dict:
    flags = {"add_prefix_space": add_prefix_space, "trim_offsets": False, "use_regex": use_regex}
    return {"type": "ByteLevel"} | flags


def split_step(pattern: str, behavior: str = "Isolated") -> dict:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


def sequence(*steps: dict) -> dict:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def wrap(spec: dict) -> HFTokenizer:
    return HFTokenizer(spec, bos_token_id=1, eos_token_ids=frozenset({2}))


def restartable_tokenizers() -> dict[str, HFTokenizer]:
    """One for each pre-tokenizer that has a restart rule."""
    digits = {"type": "Digits", "individual_digits": True}
    runs = {"type": "Digits", "individual_digits": False}
    bare = byte_level_step(use_regex=False)
    specs = {
        "gpt2": byte_level_spec(byte_level_step()),
        "smollm": byte_level_spec(sequence(digits, byte_level_step())),
        "digit_runs": byte_level_spec(sequence(runs, byte_level_step())),
    }
    for i, pattern in enumerate(sorted(LOCAL_PATTERNS)):
        specs[f"pattern{i}"] = byte_level_spec(sequence(split_step(pattern), bare))
        specs[f"pattern{i}_nfc"] = byte_level_spec(sequence(split_step(pattern), bare), {"type": "NFC"})
    # the longest added token decides how far back an append reaches: without any, the cuts of words alone count
    specs |= {f"{name}_plain": spec | {"added_tokens": []} for name, spec in specs.items()}
    return {name: wrap(spec) for name, spec in specs.items()}


@cache
def sentencepiece_model() -> dict:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    bytes_and_specials = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=bytes_and_specials, show_progress=False)
    tokenizer.train_from_iterator(
        ["the quick brown fox jumps over the lazy dog, 12345 times. Hello world! " * 4], trainer
    )
    return json.loads(tokenizer.to_str())["model"]


def sentencepiece_spec(kind: str) -> dict:
    """As Llama 2 has it (`normalizer`), or as newer conversions have it (`metaspace`)."""
    added = [
        {"id": i, "content": content, "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for i, content in enumerate(["<unk>", "<s>", "</s>"])
    ]
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    prepend = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    steps = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    is_metaspace = kind == "metaspace"
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None if is_metaspace else {"type": "Sequence", "normalizers": prepend},
        "pre_tokenizer": metaspace if is_metaspace else None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": steps},
        "model": sentencepiece_model(),
    }


FRAGMENTS = [
    *["<|im_", "end|>", "start|>", "<|im_end|>", "<|im_end|>|", "<|", "|>", "|", "<", "s>", "<s>", "'", "'l", "'ve"],
    *[" ", "  ", "   ", "\n", "\r\n", "\t", " \n ", "\u00a0", "\u2003", "\ufeff", "\x00", "\x04", "\u200d", "!", "..."],
    *["0", "12", "12345", "\u0663", "\u00bd", "a", "Ab", "THE", "quick", "\u00c9", "\u017f", "\u01c5", "\u02b0", "/"],
    *["e\u0301", "\u0301", "\u0338", "=", "\u0344", "\u212b", "\u0915\u093c", "\u0b47\u0b3e", "\uf900", "\u304b\u3099"],
    *["\u1100\u1161", "\u11a8", "\uac00", "\uac01", "\u4f60\u597d", "\u3002", "\U0001f600", "\U0001d400", "l"],
]  # fmt: skip
PIECE = st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=4))
TEXT = st.lists(PIECE, max_size=24).map("".join)


@st.composite
def cut_text(draw: st.DrawFn) -> list[str]:
    """A text in arbitrary pieces; cuts may go through the middle of anything."""
    text = draw(TEXT)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
