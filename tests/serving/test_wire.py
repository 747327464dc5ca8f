"""Sampling parameters and content on the wire."""

import numpy as np
import pytest

from s2l_jax.core.constraint import MAX_CONSTRAINT_CHARS, Constraint
from s2l_jax.core.errors import InvalidArgument
from s2l_jax.core.params import SamplingParams
from serving.protos.s2l.v1 import streaming_pb2 as pb
from serving.wire import content_from_wire, content_to_wire, params_from_wire, params_to_wire


@pytest.mark.parametrize(
    "constraint",
    [
        None,
        Constraint.json({"type": "object", "properties": {"ä": {"enum": ["\n"]}}}),
        Constraint.json_object(),
        Constraint.regex("a|\\d+"),
        Constraint.choice(["yes", 'n"o', "ß"]),
    ],
    ids=str,
)
def test_all_parameters_survive(constraint: Constraint | None) -> None:
    params = SamplingParams(
        max_tokens=7,
        temperature=0.5,
        top_k=3,
        top_p=0.75,
        min_p=0.25,
        seed=2**63 + 1,
        stop=("a", "b"),
        stop_token_ids=frozenset({1, 2}),
        ignore_eos=True,
        repetition_penalty=1.5,
        presence_penalty=-1.0,
        frequency_penalty=0.5,
        logprobs=0,
        constraint=constraint,
    )
    received = pb.SamplingParams.FromString(params_to_wire(params).SerializeToString())
    assert params_from_wire(received, default_max_tokens=99) == params


def test_nothing_said_means_the_servers_defaults() -> None:
    received = pb.SamplingParams.FromString(params_to_wire(None).SerializeToString())
    assert params_from_wire(received, default_max_tokens=99) == SamplingParams(max_tokens=99)


def test_seed_zero_is_a_seed() -> None:
    assert params_from_wire(params_to_wire(SamplingParams(seed=0)), default_max_tokens=1).seed == 0


@pytest.mark.parametrize(
    "field", [{"top_p": 1.5}, {"temperature": float("nan")}, {"presence_penalty": 9.0}, {"repetition_penalty": 1e30}]
)
def test_parameters_out_of_range_are_refused(field: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(field))):
        params_from_wire(pb.SamplingParams(**field), default_max_tokens=1)  # type: ignore[arg-type]


def test_content() -> None:
    assert content_to_wire(None) is None
    assert content_from_wire(pb.Content()) is None
    for content in ("text", "", [1, 2], []):
        wire = content_to_wire(content)
        assert wire is not None and content_from_wire(wire) == content
    wire = content_to_wire(np.array([1, 2], np.int32))  # type: ignore[arg-type]
    assert wire is not None and content_from_wire(wire) == [1, 2]


@pytest.mark.parametrize("content", [[1 << 40], [1.5], ["a"]])
def test_content_that_is_no_list_of_ids_is_refused(content: list[object]) -> None:
    with pytest.raises(InvalidArgument, match="token ids"):
        content_to_wire(content)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wire", "hint"),
    [
        (pb.Constraint(), "set json_schema, regex or choice"),
        (pb.Constraint(regex=""), "has 0 characters"),
        (pb.Constraint(json_schema="x" * (MAX_CONSTRAINT_CHARS + 1)), "but must have 1 to 65536"),
        (pb.Constraint(choice=pb.Choice()), "choice has 0 texts"),
        (pb.Constraint(choice=pb.Choice(texts=["a", ""])), "1 of them not empty"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_constraints_that_are_none_are_refused(wire: pb.Constraint, hint: str) -> None:
    with pytest.raises(InvalidArgument, match=hint):
        params_from_wire(pb.SamplingParams(constraint=wire), default_max_tokens=1)
