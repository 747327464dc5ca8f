"""Tokens one by one give the text of all of them, character by character."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_jax.models.stream_decoder import StreamDecoder
from s2l_jax.models.tokenizer import ByteTokenizer
from tests.models.toys import TEXT, byte_level_spec, byte_level_step, sentencepiece_spec, wrap

TOKENIZERS = {
    "bytes": ByteTokenizer(),
    "byte_level": wrap(byte_level_spec(byte_level_step())),
    "metaspace": wrap(sentencepiece_spec("metaspace")),
    "normalizer": wrap(sentencepiece_spec("normalizer")),
}


def pushed(tokenizer, ids, **options):
    decoder = StreamDecoder(tokenizer, **options)
    return [*(decoder.push(token_id) for token_id in ids), decoder.flush()]


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_tokens_give_what_decoding_all_gives(name, data):
    tokenizer = TOKENIZERS[name]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 2), max_size=40))
    for skip_special in (True, False):
        parts = pushed(tokenizer, ids, skip_special=skip_special)
        assert "".join(parts) == tokenizer.decode(ids, skip_special=skip_special)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=100, deadline=None)
@given(text=TEXT)
def test_a_text_comes_back_and_no_character_is_split(name, text):
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text).tolist()
    parts = pushed(tokenizer, ids, skip_special=False)
    assert parts[-1] == ""
    lossless = not tokenizer.strips_leading_space
    assert "".join(parts) == (text if lossless else tokenizer.decode(ids, skip_special=False))
    assert all("\ufffd" not in part for part in parts) or "\ufffd" in text


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, 49151), max_size=30), text=TEXT)
def test_the_library_decodes_alike(smollm2, ids, text):
    tokenizer = smollm2.tokenizer
    library = tokenizer._tokenizer
    assert tokenizer.decode(ids) == library.decode(ids)
    encoded = tokenizer.encode(text).tolist()
    assert tokenizer.decode(encoded, skip_special=False) == library.decode(encoded, skip_special_tokens=False)


@pytest.mark.parametrize("kind", ["metaspace", "normalizer"])
@settings(max_examples=50, deadline=None)
@given(text=TEXT)
def test_the_library_decodes_space_marks_alike(kind, text):
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text).tolist()
    assert tokenizer.decode(ids) == tokenizer._tokenizer.decode(ids)


def test_a_character_waits_for_its_last_byte():
    assert pushed(ByteTokenizer(), "a😀b".encode()) == ["a", "", "", "", "😀", "b", ""]


def test_a_character_that_never_ends_is_replaced_once():
    assert pushed(ByteTokenizer(), "a😀".encode()[:-1]) == ["a", "", "", "", "\ufffd"]


def test_output_that_continues_a_text_keeps_its_leading_space():
    tokenizer = TOKENIZERS["normalizer"]
    ids = tokenizer.encode("fox jumps").tolist()
    assert "".join(pushed(tokenizer, ids)) == "fox jumps"
    assert "".join(pushed(tokenizer, ids, continues=True)) == " fox jumps"


def test_special_tokens_give_no_text(smollm2):
    ids = smollm2.tokenizer.encode("<|im_start|>hi<|im_end|>")
    assert smollm2.tokenizer.decode(ids) == "hi"
    assert smollm2.tokenizer.decode(ids, skip_special=False) == "<|im_start|>hi<|im_end|>"


def test_numpy_ids_are_fine():
    assert ByteTokenizer().decode(np.array([104, 105], np.int32)) == "hi"
