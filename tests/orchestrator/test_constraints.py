"""Constrained output: whatever becomes of a session, its output is that of a fresh engine under the same constraint."""

import json
import re
from collections.abc import Iterator

import numpy as np
import pytest

from s2l_jax.core.constraint import Constraint
from s2l_jax.core.errors import InternalError, InvalidArgument, S2LError
from s2l_jax.core.params import SamplingParams
from s2l_jax.models.grammar import GrammarCompiler, GrammarState
from s2l_jax.models.tokenizer import ByteTokenizer
from tests.fake_model import reference_output
from tests.orchestrator.harness import EOS, LETTERS, Recorder, World, wait_until, world
from tests.orchestrator.separate_harness import SeparateWorld, separate_world
from tests.orchestrator.test_separate import LONG

COMPILER = GrammarCompiler(ByteTokenizer())
SCHEMA = {
    "type": "object",
    "properties": {
        "abc": {"type": "integer"},
        "list": {"type": "array", "items": {"enum": ["ab", "cd"]}, "maxItems": 3},
    },
    "required": ["abc", "list"],
    "additionalProperties": False,
}
REGEX = Constraint.regex("[b-d]{2,20}[1-9]{3}[a-c]{1,5}x")
KINDS = (
    SamplingParams(max_tokens=60, constraint=Constraint.json(SCHEMA)),
    SamplingParams(max_tokens=60, constraint=REGEX),
    SamplingParams(max_tokens=60, constraint=REGEX, ignore_eos=True),
    SamplingParams(max_tokens=60, constraint=REGEX, temperature=1.0, seed=3),
    SamplingParams(max_tokens=60, constraint=REGEX, presence_penalty=1.0),
    SamplingParams(max_tokens=4, constraint=REGEX),
    SamplingParams(max_tokens=60, constraint=Constraint.choice(["yes", "yesterday", "bee"])),
)


def expected(text: str, params: SamplingParams) -> list[int]:
    """What a fresh engine answers, up to the token that ends it."""
    assert params.constraint is not None
    fresh = COMPILER.start(params.constraint, ignore_eos=params.ignore_eos)
    prompt = list(text.encode())
    ids = reference_output(
        prompt, params.max_tokens, alphabet=LETTERS, params=params, seed=params.seed or 0, mask=fresh.mask,
        stop_token_ids=(EOS,),
    )  # fmt: skip
    state = COMPILER.start(params.constraint, ignore_eos=params.ignore_eos)
    for count, token in enumerate(ids, 1):
        if state.push(token):
            return ids[:count]
    return ids


def ask_all(w: World | SeparateWorld, count: int) -> list[tuple[str, SamplingParams, Recorder]]:
    return [
        (text := f"{i}" * (1 + 7 * (i % 3)), params, w.ask(text, params=params))
        for i, params in enumerate((KINDS * count)[:count])
    ]


@pytest.mark.parametrize("params", KINDS, ids=range(len(KINDS)))
def test_an_output_is_what_its_constraint_says(params: SamplingParams) -> None:
    with world() as w:
        sink = w.ask("hello", params=params)
        assert sink.ids == expected("hello", params)
        if params.max_tokens == 4:
            assert sink.done.finish_reason == "length"
            assert re.fullmatch("[b-d]{4}", sink.text)
            return
        assert sink.done.finish_reason == "stop"
        if params.constraint == REGEX:
            assert re.fullmatch("[b-d]{2,20}[1-9]{3}[a-c]{1,5}x", sink.text), sink.text
        elif params.constraint.kind == "json":
            assert list(json.loads(sink.text)) == ["abc", "list"]
        else:
            assert sink.text in ("yes", "yesterday", "bee")
        w.check_empty()


def test_neighbours_are_not_changed() -> None:
    with world() as w:
        plain = [w.ask(f"<{i}>", params=LONG) for i in range(4)]
        asked = ask_all(w, 10)
        assert [sink.ids for sink in plain] == [
            w.engine.reference_output(list(f"<{i}>".encode()), 30) for i in range(4)
        ]
        for text, params, sink in asked:
            assert sink.ids == expected(text, params), params
        w.check_empty()


def test_only_constrained_samples_have_masks() -> None:
    plans = []
    with world(hook=plans.append) as w:
        sinks = [w.ask("a", params=LONG, session_id="plain"), w.ask("b", params=KINDS[1], session_id="constrained")]
        assert all(sink.done for sink in sinks)
    samples = [sample for plan in plans for sample in plan.samples]
    assert {(one.session_id, one.mask is not None) for one in samples} == {("plain", False), ("constrained", True)}
    assert all(one.history is None for one in samples)


def test_context_that_arrives_in_pieces() -> None:
    with world() as w:
        sink = Recorder()
        w.orchestrator.open(sink=sink, session_id="s", content="abc", params=KINDS[0])
        w.orchestrator.append("s", "def")
        w.orchestrator.finish("s")
        assert sink.ids == expected("abcdef", KINDS[0])


def test_an_output_that_is_complete_at_its_last_token_stops() -> None:
    with world() as w:
        sink = w.ask("x", params=SamplingParams(max_tokens=3, constraint=Constraint.regex("ab[cd]")))
        assert (sink.done.finish_reason, len(sink.ids)) == ("stop", 3)
        assert sink.text in ("abc", "abd")


@pytest.mark.parametrize("roles", ["pg", "ppgg", "bb"])
def test_sessions_move_and_engines_fail(roles: str) -> None:
    """One engine loses its KV, and then another one dies, in the middle of everything."""
    with separate_world(roles, num_blocks=64, max_sessions=32) as w:
        plain = [w.ask(f"<{i}>", params=LONG) for i in range(4)]
        asked = ask_all(w, 14)
        w.engines[0].loses_kv = True
        late = ask_all(w, 7)
        wait_until(lambda: w.orchestrator.stats().counters.step_failures > 0)  # while there is another engine
        w.engines[-1].dies = True
        for text, params, sink in asked + late:
            assert sink.ids == expected(text, params), params
        assert [sink.ids for sink in plain] == [w.expected(f"<{i}>", 30) for i in range(4)]
        assert w.orchestrator.stats().counters.sessions_resumed > 0
        w.check_empty()


def test_a_constraint_that_cannot_be_compiled_opens_nothing() -> None:
    with world() as w:
        with pytest.raises(InvalidArgument, match="unclosed group"):
            w.ask("x", params=SamplingParams(constraint=Constraint.regex("(")))
        stats = w.orchestrator.stats()
        assert (stats.sessions_open, stats.counters.sessions_opened) == (0, 0)


@pytest.fixture(params=[InvalidArgument("too complex"), RuntimeError("a defect")], ids=["too complex", "defect"])
def failure(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Exception]:
    """What the grammars of long outputs raise."""
    mask = GrammarState.mask

    def failing(self: GrammarState, output: np.ndarray) -> np.ndarray:
        if len(output) == 5:
            raise request.param
        return mask(self, output)

    monkeypatch.setattr(GrammarState, "mask", failing)
    yield request.param


def test_a_grammar_that_fails_ends_its_session_only(failure: Exception) -> None:
    with world() as w:
        plain = [w.ask(f"<{i}>", params=LONG) for i in range(3)]
        broken = w.ask("x", params=KINDS[1])
        if isinstance(failure, S2LError):
            assert broken.error is failure
        else:
            assert isinstance(broken.error, InternalError) and "defect" not in str(broken.error)
        short = SamplingParams(max_tokens=5, constraint=KINDS[1].constraint)
        assert len(w.ask("y", params=short).ids) == 5
        for i, sink in enumerate(plain):
            assert sink.ids == w.engine.reference_output(list(f"<{i}>".encode()), 30)
        w.check_empty()
