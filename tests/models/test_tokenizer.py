"""Tokenizers: special tokens, begin of sequence, bytes of tokens, and what is refused."""

import json

import pytest
from tokenizers import Tokenizer

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models.tokenizer import ByteTokenizer
from tests.models.toys import byte_level_spec, byte_level_step, sentencepiece_spec, wrap

TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
}


def test_smollm2_ids(smollm2):
    tokenizer = smollm2.tokenizer
    assert tokenizer.encode("Hello world 123").tolist() == [19556, 905, 216, 33, 34, 35]
    assert tokenizer.encode("<|im_start|>user\n").tolist() == [1, 4093, 198]
    assert (tokenizer.vocab_size, tokenizer.bos_token_id, tokenizer.eos_token_ids) == (49152, 1, {0, 2})
    assert tokenizer.encode("a", add_bos=True).tolist() == [1, *tokenizer.encode("a").tolist()]


def test_the_post_processor_says_whether_text_begins_with_bos():
    spec = sentencepiece_spec("metaspace")
    assert not wrap(spec).adds_bos
    with_template = wrap(spec | {"post_processor": TEMPLATE})
    assert with_template.adds_bos
    assert with_template.encode("fox").tolist() == wrap(spec).encode("fox").tolist()


def test_encoding_is_the_librarys_own():
    spec = byte_level_spec(byte_level_step())
    library = Tokenizer.from_str(json.dumps(spec))
    for text in ("", "plain", "<|im_end|>||>", "don't  stop\n"):
        assert wrap(spec).encode(text).tolist() == library.encode(text, add_special_tokens=False).ids


def test_truncation_in_the_file_is_ignored():
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    spec = byte_level_spec(byte_level_step())
    assert len(wrap(spec | {"truncation": truncation}).encode("one two three")) == len(
        wrap(spec).encode("one two three")
    )


def test_unknown_ids_have_no_text():
    for tokenizer in (ByteTokenizer(), wrap(byte_level_spec(byte_level_step()))):
        assert tokenizer.token_bytes(tokenizer.vocab_size) == b""
        assert tokenizer.token_bytes(-1) == b""


def test_byte_fallback_tokens_are_bytes():
    tokenizer = wrap(sentencepiece_spec("normalizer"))
    ids = tokenizer.encode("é").tolist()
    assert [tokenizer.token_bytes(i) for i in ids] == [b" ", b"\xc3", b"\xa9"]


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), wrap(byte_level_spec(byte_level_step()))])
def test_lone_surrogates_are_refused(tokenizer):
    with pytest.raises(InvalidArgument, match=r"lone surrogate U\+DC80 at character 2"):
        tokenizer.encode("ab\udc80")


def test_unsupported_decoders_are_named():
    spec = byte_level_spec(byte_level_step())
    with pytest.raises(InvalidArgument, match="decoder WordPiece is not supported"):
        wrap(spec | {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}})
    with pytest.raises(InvalidArgument, match="decoder none"):
        wrap(spec | {"decoder": None})


def test_a_malformed_file_is_refused():
    with pytest.raises(InvalidArgument, match=r"tokenizer.json cannot be read"):
        wrap({"version": "1.0", "model": {"type": "nonsense"}})
