"""Text in pieces gives the tokens of the whole text."""

import time
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models.restart import LOCAL_PATTERNS, begins_nfc_segment
from s2l_jax.models.stream_encoder import StreamEncoder, common_prefix
from s2l_jax.models.tokenizer import ByteTokenizer
from tests.models.toys import (
    TEXT,
    byte_level_spec,
    byte_level_step,
    cut_text,
    restartable_tokenizers,
    sentencepiece_spec,
    split_step,
    wrap,
)

RESTARTABLE = restartable_tokenizers() | {"bytes": ByteTokenizer()}
WHOLE = {kind: wrap(sentencepiece_spec(kind)) for kind in ("metaspace", "normalizer")}
ALL = RESTARTABLE | WHOLE


class Client:
    """Applies what the encoder returns, as the caller's session does."""

    def __init__(self, tokenizer, *, add_bos=False):
        self.encoder = StreamEncoder(tokenizer, add_bos=add_bos)
        self.tokenizer, self.add_bos = tokenizer, add_bos
        self.text, self.tokens = "", []

    def change(self, keep_chars, text):
        before = self.tokens
        keep, tail = self.encoder.update(keep_chars, text)
        self.text = self.text[:keep_chars] + text
        self.tokens = before[:keep] + tail.tolist()
        assert keep <= len(before)
        whole = self.tokenizer.encode(self.text, add_bos=self.add_bos)
        np.testing.assert_array_equal(self.tokens, whole, err_msg=repr(self.text))
        np.testing.assert_array_equal(self.encoder.tokens, whole)
        assert self.encoder.text == self.text


def check_pieces(tokenizer, pieces, *, add_bos=False):
    client = Client(tokenizer, add_bos=add_bos)
    for piece in pieces:
        client.change(len(client.text), piece)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=25, deadline=None)
@given(pieces=cut_text(), add_bos=st.booleans())
def test_pieces_give_the_tokens_of_the_whole(name, pieces, add_bos):
    check_pieces(ALL[name], pieces, add_bos=add_bos)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=25, deadline=None)
@given(changes=st.lists(st.tuples(st.floats(0, 1), TEXT), min_size=1, max_size=5))
def test_replaced_tails_give_the_tokens_of_the_whole(name, changes):
    client = Client(ALL[name])
    for share, text in changes:
        client.change(round(share * len(client.text)), text)


@settings(max_examples=300, deadline=None)
@given(pieces=cut_text())
def test_real_tokenizer(smollm2, pieces):
    assert smollm2.tokenizer.restart_rule is not None
    check_pieces(smollm2.tokenizer, pieces)


@pytest.mark.parametrize("name", ALL)
def test_every_cut_of_hard_texts(name):
    for text in (
        "a  <|im_end|> b",
        "don'll \r\n\n  12345<s>",
        "x \n\n \n y\u0301z",
        "\u1100\u1161\u11a8 가\u11a8 AAAb ABcÉ",
        "ab\ufb4e   c  d",
    ):
        for cut in range(len(text) + 1):
            check_pieces(ALL[name], [text[:cut], text[cut:]])


def test_character_by_character(smollm2):
    text = "Tools: don't   stop <|im_start|>user\n42 things\n\n  naïve 你好 😀 <|im_end|> tail of plain words follows."
    check_pieces(smollm2.tokenizer, list(text))


@pytest.mark.parametrize("name", RESTARTABLE)
def test_only_the_tail_is_tokenized_again(name, monkeypatch):
    tokenizer = RESTARTABLE[name]
    seen = []
    original = type(tokenizer).encode_pieces
    monkeypatch.setattr(
        type(tokenizer), "encode_pieces", lambda self, text: seen.append(len(text)) or original(self, text)
    )
    encoder = StreamEncoder(tokenizer)
    encoder.append("Plain words, and then some more of them. " * 50)
    encoder.append("a few more")
    encoder.update(1000, encoder.text[1000:] + " tail")
    assert seen[0] > 2000
    assert max(seen[1:]) < 80


def test_appending_to_a_long_text_is_cheap(smollm2):
    encoder = StreamEncoder(smollm2.tokenizer)
    sentence = "In 1815 the river (a wide one) flooded; nobody's house stood. "
    encoder.append(sentence * 1600)
    piece = sentence * 33
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        encoder.append(piece)
        seconds.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    whole = smollm2.tokenizer.encode(encoder.text)
    assert min(seconds) < 0.3 * (time.perf_counter() - begin)
    np.testing.assert_array_equal(encoder.tokens, whole)


def test_an_append_keeps_all_but_the_last_tokens(smollm2):
    encoder = StreamEncoder(smollm2.tokenizer)
    _, tail = encoder.append("one two three four")
    keep, tail = encoder.append("teen five")
    assert keep == 3
    assert smollm2.tokenizer.decode(tail) == " fourteen five"


def test_equal_text_sent_again_changes_nothing():
    encoder = StreamEncoder(ByteTokenizer())
    encoder.append("same text")
    keep, tail = encoder.update(0, "same text")
    assert (keep, len(tail)) == (9, 0)
    keep, tail = encoder.update(2, "me texture")
    assert (keep, bytes(tail.tolist())) == (9, b"ure")


def test_the_first_tail_holds_the_beginning_of_sequence():
    encoder = StreamEncoder(ByteTokenizer(), add_bos=True)
    keep, tail = encoder.append("ab")
    assert (keep, tail.tolist()) == (0, [256, 97, 98])
    keep, tail = encoder.append("c")
    assert (keep, tail.tolist()) == (3, [99])


def test_a_refused_change_leaves_everything_as_it_was():
    encoder = StreamEncoder(ByteTokenizer())
    encoder.append("abc")
    with pytest.raises(InvalidArgument, match="U\\+D800 at character 1"):
        encoder.append("x\ud800")
    with pytest.raises(InvalidArgument, match="keep_chars is 4, but the text so far has 3"):
        encoder.update(4, "x")
    assert encoder.text == "abc"
    assert encoder.tokens.tolist() == [97, 98, 99]


def test_where_the_rule_is_unproven_there_is_none():
    lower = {"type": "Lowercase"}
    refused = [
        sentencepiece_spec("metaspace"),
        sentencepiece_spec("normalizer"),
        byte_level_spec(byte_level_step(add_prefix_space=True)),
        byte_level_spec(byte_level_step(), lower),
        byte_level_spec(split_step(r"[^\n]*\n|.")),
        byte_level_spec(split_step(r"\s+", "MergedWithNext")),
    ]
    stripping = byte_level_spec(byte_level_step())
    stripping["added_tokens"][0]["lstrip"] = True
    for spec in [*refused, stripping]:
        assert wrap(spec).restart_rule is None


@given(st.text(alphabet="ab", max_size=9), st.text(alphabet="ab", max_size=9))
def test_common_prefix(left, right):
    want = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    assert common_prefix(left, right) == want
    as_arrays = [np.frombuffer(text.encode(), np.uint8) for text in (left, right)]
    assert common_prefix(*as_arrays) == want


def test_the_patterns_of_the_families_are_known():
    """As their tokenizer.json files have them."""
    gpt4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    rest = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    llama3, qwen2 = gpt4 + r"\p{N}{1,3}" + rest, gpt4 + r"\p{N}" + rest
    assert {llama3, qwen2} <= LOCAL_PATTERNS


def test_what_never_merges_with_the_character_before_it():
    second_halves = set()
    for code in range(0x110000):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            second_halves.add(chr(int(parts[1], 16)))
    assert len(second_halves) > 50
    assert not any(begins_nfc_segment(char) for char in second_halves)
    vowels_and_tails = [chr(code) for code in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))]
    assert not any(begins_nfc_segment(char) for char in vowels_and_tails)
    assert all(begins_nfc_segment(char) for char in "a1 \n<é你。가か😀"[:-1])
