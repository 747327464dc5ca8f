"""Masks of grammars: what they let through is the language, token by token."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from s2l_jax.core.constraint import MAX_CONSTRAINT_CHARS, Constraint
from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models import grammar as grammar_module
from s2l_jax.models.grammar import GrammarCompiler, GrammarState
from s2l_jax.models.tokenizer import ByteTokenizer

EOS = 257
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}, "kind": {"enum": ["a", "b"]}},
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(ByteTokenizer())


def allows(words: np.ndarray, token: int) -> bool:
    return bool(words[token // 32] >> (token % 32) & 1)


def ids_of(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


def accepts(state: GrammarState, text: str) -> bool:
    """True if a text comes through token by token, and may end behind its last."""
    ids = ids_of(text)
    return all(allows(state.mask(ids[:i]), token) for i, token in enumerate(ids)) and allows(state.mask(ids), EOS)


@pytest.mark.parametrize(
    ("constraint", "good", "bad"),
    [
        (
            Constraint.json(PERSON),
            ['{"name":"Zoë","age":3,"kind":"b"}', '{"name": "", "age":0, "kind": "a"}'],
            [
                '{"name":"x"}',
                '{"name":"x","age":-1,"kind":"a"}',
                '{"name":"x","age":1,"kind":"c"}',
                "[]",
                '{"name":\n"x","age":3,"kind":"b"}',
                '{"name":  "x","age":3,"kind":"b"}',
            ],
        ),
        (Constraint.json_object(), ['{"a": [1, null, {"b": false}]}', "{}"], ["[1]", "1", " {}", "{} "]),
        (
            Constraint.json({"$ref": "#/$defs/n", "$defs": {"n": {"type": ["integer", "null"]}}}),
            ["12", "null"],
            ["1.5"],
        ),
        (Constraint.regex(r"\d{3}-\d{4}"), ["555-1234"], ["555-123", "5551234", "555-12345"]),
        (Constraint.regex("^(ab)*$"), ["", "ab", "abab"], ["aba", "^ab$"]),
        (Constraint.choice(["yes", "yesterday", 'a "b"\\\nß']), ["yes", "yesterday", 'a "b"\\\nß'], ["yest", "no", ""]),
    ],
    ids=str,
)
def test_only_the_language_comes_through(
    compiler: GrammarCompiler, constraint: Constraint, good: list[str], bad: list[str]
) -> None:
    for text in good:
        assert accepts(compiler.start(constraint), text), text
    for text in bad:
        assert not accepts(compiler.start(constraint), text), text


def test_random_walks_through_a_schema_end_in_valid_json(compiler: GrammarCompiler) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    random, complete = np.random.default_rng(0), 0
    for _ in range(40):
        state, output = compiler.start(Constraint.json(PERSON)), []
        while len(output) < 200:
            may_come = np.flatnonzero(
                np.unpackbits(state.mask(np.array(output, np.int32)).view(np.uint8), bitorder="little")
            )
            # Ends strings sooner than chance would.
            token = ord('"') if ord('"') in may_come and random.random() < 0.3 else int(random.choice(may_come))
            output.append(token)
            if state.push(token):
                jsonschema.validate(json.loads(bytes(output)), PERSON)
                complete += 1
                break
    assert complete > 20


def test_a_state_is_made_anew_from_the_output(compiler: GrammarCompiler) -> None:
    text = ids_of('{"name":"x","age":12,"kind":"a"}')
    state = compiler.start(Constraint.json(PERSON))
    masks = [state.mask(text[:n]) for n in range(len(text) + 1)]
    for n in (len(text), 12, 0, 20):  # backwards as well, and on a state that has not seen any of it
        for one in (state, compiler.start(Constraint.json(PERSON))):
            np.testing.assert_array_equal(one.mask(text[:n]), masks[n])
    assert not compiler.start(Constraint.json(PERSON)).push(text[0])


def test_nothing_may_follow_an_output_that_is_complete(compiler: GrammarCompiler) -> None:
    state = compiler.start(Constraint.regex("ab?"))
    assert [state.push(token) for token in b"ab"] == [False, True]
    open_end = compiler.start(Constraint.regex("ab*"))
    assert [open_end.push(token) for token in b"ab"] == [False, False]


def test_end_of_sequence_comes_last_or_not_at_all(compiler: GrammarCompiler) -> None:
    words = compiler.start(Constraint.regex("a+")).mask(ids_of("a"))
    assert allows(words, EOS) and allows(words, ord("a"))
    words = compiler.start(Constraint.regex("a+"), ignore_eos=True).mask(ids_of("a"))
    assert not allows(words, EOS) and allows(words, ord("a"))
    assert allows(compiler.start(Constraint.regex("a"), ignore_eos=True).mask(ids_of("a")), EOS)  # nothing else may


def test_special_tokens_never_come(compiler: GrammarCompiler) -> None:
    assert not allows(compiler.start(Constraint.regex(r"(?s).*")).mask(ids_of("")), ByteTokenizer.bos_token_id)


def test_a_model_without_an_end_of_sequence() -> None:
    class Endless(ByteTokenizer):
        eos_token_ids = frozenset()

    state = GrammarCompiler(Endless()).start(Constraint.regex("a+"))
    words = state.mask(ids_of("a"))
    assert allows(words, ord("a")) and not allows(words, EOS)


def _requires(name: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "string"}}, "required": [name]}


@pytest.mark.parametrize(
    ("constraint", "hint"),
    [
        (Constraint.json("{"), "EOF while parsing"),
        (Constraint.json({"type": "thing"}), "Invalid type: thing"),
        (Constraint.json({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (Constraint.json({"$ref": "http://example.org/x"}), "example.org"),
        (Constraint.json({"allOf": [{"type": "string"}, {"type": "number"}]}), "Unsatisfiable"),
        (Constraint.json("[" * 60_000), "recursion limit"),
        (
            Constraint.json({"allOf": [{"anyOf": [_requires(f"{i}{j}") for j in range(4)]} for i in range(6)]}),
            "too big",
        ),
        (Constraint.regex("(a"), "unclosed group"),
        (Constraint.regex(r"(a)\1"), "backreferences"),
        (Constraint.regex("(?=a)b"), "look-around"),
        (Constraint.regex("$"), "nothing but the empty output"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_compiled_is_refused(compiler: GrammarCompiler, constraint: Constraint, hint: str) -> None:
    with pytest.raises(InvalidArgument, match=f"the {constraint.kind} constraint cannot be used: .*{hint}") as caught:
        compiler.start(constraint)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_an_output_of_another_language_is_an_error(compiler: GrammarCompiler) -> None:
    with pytest.raises(InvalidArgument, match="failed after 1 tokens"):
        compiler.start(Constraint.regex("a+")).mask(ids_of("b"))


def test_sizes_are_bounded() -> None:
    with pytest.raises(InvalidArgument, match=f"1 to {MAX_CONSTRAINT_CHARS}"):
        Constraint.regex("a" * (MAX_CONSTRAINT_CHARS + 1))
    with pytest.raises(InvalidArgument, match="kind 'xml'"):
        Constraint("xml", "<a/>")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="no JSON"):
        Constraint.json({"const": {1, 2}})
    with pytest.raises(InvalidArgument, match="choice has 1001 texts"):
        Constraint.choice(["a"] * 1001)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[GrammarCompiler]:
    monkeypatch.setattr(grammar_module, "MAX_GRAMMARS", 2)
    yield GrammarCompiler(ByteTokenizer())


def test_the_grammars_used_last_are_kept(small: GrammarCompiler) -> None:
    a, b, c = (Constraint.regex(text) for text in "abc")
    for constraint in (a, b, a, c):
        state = small.start(constraint)
        assert allows(state.mask(ids_of("")), ord(constraint.text))
    assert list(small._compiled) == [a, c]


def test_states_of_one_grammar_do_not_disturb_each_other(compiler: GrammarCompiler) -> None:
    one, other = (compiler.start(Constraint.regex("ab|cd")) for _ in range(2))
    one.push(ord("a"))
    assert allows(one.mask(ids_of("a")), ord("b")) and not allows(one.mask(ids_of("a")), ord("d"))
    assert allows(other.mask(ids_of("")), ord("c"))


def test_states_of_one_grammar_may_be_used_in_several_threads(compiler: GrammarCompiler) -> None:
    """As engines do, each on a thread of its own."""
    texts = [ids_of(json.dumps({"name": f"n{i}" * i, "age": i, "kind": "a"})) for i in range(8)]

    def masks_of(text: np.ndarray) -> bytes:
        state = compiler.start(Constraint.json(PERSON))
        return b"".join(state.mask(text[:end]).tobytes() for end in range(len(text)))

    alone = [masks_of(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert list(pool.map(masks_of, texts)) == alone
