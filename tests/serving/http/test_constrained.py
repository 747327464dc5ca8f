"""Constrained output for the `openai` package, unmodified, for sessions, the WebSocket and gRPC."""

import json
import re
from enum import StrEnum
from typing import Annotated, Any

import httpx2
import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field
from websockets.sync.client import connect

from s2l_jax.core.errors import InvalidArgument
from serving.client import Client, Constraint, SamplingParams
from tests.serving.harness import threaded_world
from tests.serving.http.http_harness import HttpWorld

MESSAGES = [{"role": "user", "content": "Hello"}]
GREEDY = {"model": "tiny-random", "max_tokens": 120, "temperature": 0.0}
DATE = r"20\d\d-(0[1-9]|1[0-2])"


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Leg(BaseModel):
    model_config = ConfigDict(extra="forbid")

    length: Annotated[int, Field(ge=0, le=50)]
    colour: Colour


class Animal(BaseModel):
    """A schema with references, an enumeration, a union and bounds."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=3)]
    legs: Annotated[list[Leg], Field(max_length=2)]
    tame: bool | None


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"temperature": 1.5, "seed": 4, "top_p": 0.9},
        {"presence_penalty": 1.0, "frequency_penalty": 0.5},
        {"logprobs": True, "top_logprobs": 2},
    ],
    ids=str,
)
def test_parse_gives_an_object_of_the_class(client: openai.OpenAI, changed: dict[str, Any]) -> None:
    answer = client.chat.completions.parse(messages=MESSAGES, response_format=Animal, **(GREEDY | changed))
    choice = answer.choices[0]
    assert choice.finish_reason == "stop"
    assert isinstance(choice.message.parsed, Animal)
    if changed.get("logprobs"):
        assert bytes(byte for one in choice.logprobs.content for byte in one.bytes).decode() == choice.message.content
        # What the model itself would have said is among the alternatives, not what it had to say.
        assert any(one.token not in [top.token for top in one.top_logprobs] for one in choice.logprobs.content)


def test_streams_add_up_to_the_same(client: openai.OpenAI) -> None:
    whole = client.chat.completions.parse(messages=MESSAGES, response_format=Animal, **GREEDY)
    with client.chat.completions.stream(messages=MESSAGES, response_format=Animal, **GREEDY) as stream:
        kinds = [event.type for event in stream]
        assert "content.delta" in kinds and kinds[-1] == "content.done"
        assert stream.get_final_completion().choices[0].message.parsed == whole.choices[0].message.parsed


def test_any_json_object(client: openai.OpenAI) -> None:
    formats: list[dict[str, Any]] = [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "any"}},
        {"type": "json_schema", "json_schema": {"name": "a", "strict": False, "schema": {"type": "object"}}},
    ]
    for one in formats:
        answer = client.chat.completions.create(messages=MESSAGES, response_format=one, **(GREEDY | {"max_tokens": 8}))
        assert answer.choices[0].message.content.startswith("{")
    plain = client.chat.completions.create(messages=MESSAGES, **GREEDY).choices[0]
    text = client.chat.completions.create(messages=MESSAGES, response_format={"type": "text"}, **GREEDY).choices[0]
    assert text.message.content == plain.message.content


@pytest.mark.parametrize(
    ("outputs", "pattern"),
    [
        ({"regex": DATE}, DATE),
        ({"choice": ["yes", "no", 'may "be"']}, r'yes|no|may "be"'),
        ({"json": {"enum": [1, "two"]}}, r'1|"two"'),
        (
            {"json": json.dumps({"type": "array", "items": {"const": 1}, "minItems": 2, "maxItems": 2})},
            r"\[1, ?1\]",
        ),
    ],
    ids=str,
)
def test_structured_outputs(client: openai.OpenAI, outputs: dict[str, Any], pattern: str) -> None:
    sampled = GREEDY | {"temperature": 1.0, "seed": 1}
    for create, prompt in (
        (client.completions.create, {"prompt": "Hi"}),
        (client.chat.completions.create, {"messages": MESSAGES}),
    ):
        answer = create(extra_body={"structured_outputs": outputs}, n=4, **prompt, **sampled)
        texts = [one.text if hasattr(one, "text") else one.message.content for one in answer.choices]
        assert all(re.fullmatch(pattern, text) for text in texts), texts
        assert {one.finish_reason for one in answer.choices} == {"stop"}
    events = client.completions.create(prompt="Hi", stream=True, extra_body={"structured_outputs": outputs}, **sampled)
    assert re.fullmatch(pattern, "".join(event.choices[0].text for event in events))


def test_too_few_tokens_cut_the_output(client: openai.OpenAI) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(messages=MESSAGES, response_format=Animal, **(GREEDY | {"max_tokens": 3}))


def test_bad_schemas_are_400(client: openai.OpenAI) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "thing"}}}
    with pytest.raises(openai.BadRequestError, match="Invalid type: thing") as caught:
        client.chat.completions.create(messages=MESSAGES, response_format=schema, **GREEDY)
    assert caught.value.param == "response_format"


def test_sessions_and_the_websocket(tiny: HttpWorld) -> None:
    params = {"max_tokens": 20, "structured_outputs": {"regex": DATE}}
    with httpx2.Client(base_url=tiny.url, timeout=20) as http:
        http.post("/v1/sessions", json={"session_id": "c", "content": "a", "params": params}).raise_for_status()
        http.post("/v1/sessions/c/append", json={"content": "b", "final": True}).raise_for_status()
        lines = http.get("/v1/sessions/c/output").text.splitlines()
        bad = http.post("/v1/sessions", json={"params": {"structured_outputs": {"regex": "(a"}}})
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    text = "".join(one["token"]["text"] for one in events if "token" in one)
    assert re.fullmatch(DATE, text) and events[-1]["done"]["finish_reason"] == "stop"
    assert bad.status_code == 400 and "unclosed group" in bad.json()["error"]["message"]
    with connect(tiny.url.replace("http", "ws") + "/v1/stream") as socket:
        socket.send(json.dumps({"open": {"content": "ab", "params": params, "final": True}}))
        events = [json.loads(message) for message in socket]
    assert "".join(one["token"]["text"] for one in events if "token" in one) == text


def test_grpc() -> None:
    with threaded_world() as one, Client(one.target) as client:
        params = SamplingParams(max_tokens=30, constraint=Constraint.regex("[a-e]{3}[0-9]{2}"))
        with client.session(params) as session:
            session.append("hello")
            session.finish()
            result = session.result()
        assert re.fullmatch("[a-e]{3}[0-9]{2}", result.text) and result.done.finish_reason == "stop"
        with (
            pytest.raises(InvalidArgument, match="unclosed group"),
            client.session(SamplingParams(constraint=Constraint.regex("("))) as session,
        ):
            session.append("hello")
            session.result()
