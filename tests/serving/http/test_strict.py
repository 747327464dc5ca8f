"""However much is wrong with a body, few objects are made of it."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from s2l_jax.core.errors import InvalidArgument
from serving.http import constrained, requests, session_requests, tools
from serving.http.strict import Strict

MANY = 10_000


def _bodies() -> list[type[Strict]]:
    found = {
        one
        for module in (constrained, requests, session_requests, tools)
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, Strict)
    }
    return sorted(found - {Strict}, key=lambda one: one.__name__)


def _lists(schema: Any) -> Iterator[dict[str, Any]]:
    """The lists in a schema of pydantic's core."""
    if isinstance(schema, dict):
        if schema.get("type") == "list":
            yield schema
        for part in schema.values():
            yield from _lists(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            yield from _lists(part)


@pytest.mark.parametrize("body", _bodies())
def test_lists_in_bodies_stop_at_their_first_problem(body: type[Strict]) -> None:
    lists = list(_lists(body.__pydantic_core_schema__))
    assert all(one.get("fail_fast") for one in lists)
    if body is requests.CompletionRequest:
        assert len(lists) >= 4  # so that they are found


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": [-1] * MANY},
        {"prompt": ["a", *[1] * MANY]},
        {"prompt": [[1], *["a"] * MANY]},
        {"prompt": [[-1] * MANY] * 3},
        {"prompt": "a", "stop": [1] * MANY},
        {"prompt": "a", "stop_token_ids": [-1] * MANY},
    ],
)
def test_a_list_of_nothing_but_problems_makes_few(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        requests.CompletionRequest.model_validate(fields)
    assert caught.value.error_count() < 4


def test_many_unknown_fields_are_one_problem() -> None:
    unknown = {f"x{i}": 0 for i in range(MANY)}
    with pytest.raises(InvalidArgument, match="object of 10001 fields"):
        requests.CompletionRequest.model_validate({"prompt": "a"} | unknown)
    with pytest.raises(InvalidArgument, match="object of 10002 fields"):
        requests.ChatRequest.model_validate({"messages": [{"role": "user", "content": "a"} | unknown]})
    with pytest.raises(InvalidArgument, match="object of 10000 fields"):
        session_requests.SocketRequest.model_validate({"append": unknown})


def test_a_few_unknown_fields_are_named() -> None:
    with pytest.raises(ValidationError) as caught:
        requests.CompletionRequest.model_validate({"prompt": "a", "colour": "red"})
    assert caught.value.errors()[0]["loc"] == ("colour",)
