"""Calls of functions, with the `openai` package, unmodified, over the tiny model."""

import json
from typing import Any

import openai
import pytest

from s2l_jax.models.chat import ChatTemplate
from serving.http.free_calls import Call, FreeCallReader
from serving.http.requests import Message
from serving.http.tool_calls import CallReader
from serving.http.tools import Tool, constraint_of
from tests.serving.harness import Sizes, run
from tests.serving.http.http_harness import http_world

MESSAGES = [{"role": "user", "content": "Hello"}]
GREEDY = {"model": "tiny-random", "max_tokens": 120, "temperature": 0.0, "messages": MESSAGES}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "strict": True,
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
            "$defs": {"city": {"enum": ["Rome", 'the "big" one}']}},
        },
    },
}
NOW = {"type": "function", "function": {"name": "now", "strict": True}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}


def check(name: str, arguments: str) -> None:
    """Fails unless a call is one of those that are possible."""
    found = json.loads(arguments)
    if name == "now":
        assert found == {}
    else:
        assert name == "get_weather" and list(found) == ["city", "days"]
        assert found["city"] in ("Rome", 'the "big" one}') and 1 <= found["days"] <= 9


@pytest.mark.parametrize(("choice", "reason"), [(NAMED, "stop"), ("required", "tool_calls")], ids=["named", "required"])
def test_an_answer_is_a_call_whole_and_in_pieces(client: openai.OpenAI, choice: Any, reason: str) -> None:
    for changed in ({}, {"temperature": 2.0, "seed": 1}, {"temperature": 2.0, "seed": 2}):
        asked: dict[str, Any] = {**GREEDY, "tools": [WEATHER, NOW], "tool_choice": choice, **changed}
        whole = client.chat.completions.create(n=2, **asked).choices
        for one in whole:
            (call,) = one.message.tool_calls
            assert one.finish_reason == reason and one.message.content is None and call.type == "function"
            check(call.function.name, call.function.arguments)
        assert whole[0].message.tool_calls[0].id != whole[1].message.tool_calls[0].id

        with client.chat.completions.stream(n=2, **asked) as stream:
            final = stream.get_final_completion().choices
        for one, same in zip(final, whole, strict=True):
            (call,) = one.message.tool_calls
            assert one.finish_reason == reason and call.id.startswith("call_")
            assert call.function.name == same.message.tool_calls[0].function.name
            assert call.function.arguments == same.message.tool_calls[0].function.arguments


def test_without_a_choice_that_calls_nothing_is_called(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(**GREEDY).choices[0]
    for tools in ({"tools": [WEATHER], "tool_choice": "none"}, {"tools": []}, {"tool_choice": "auto"}):
        answer = client.chat.completions.create(**GREEDY, **tools).choices[0]
        assert answer.message.content == plain.message.content and answer.message.tool_calls is None


def test_a_call_that_is_cut_says_so(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = GREEDY | {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 45}
    (call,) = client.chat.completions.create(**asked).choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    answer = client.chat.completions.create(**asked).choices[0]
    assert answer.finish_reason == "length"
    with pytest.raises(ValueError, match=r"line|char"):
        json.loads(answer.message.tool_calls[0].function.arguments)


def test_templates_are_shown_tools_calls_and_results() -> None:
    template = ChatTemplate(
        "{% for tool in tools or [] %}<{{ tool.function.name }}>{% endfor %}{% for m in messages %}[{{ m.role }}]"
        "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments.a }}"
        "{% endfor %}{{ m.tool_call_id or '' }}{% endfor %}"
    )
    call = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": '{"a": 5}'}}
    messages = [
        *MESSAGES,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "x"},
    ]

    async def test() -> None:
        async with http_world(template=template) as one, one.client() as http:
            asked = {"messages": messages, "tools": [NOW], "tool_choice": "none", "temperature": 0, "max_tokens": 5}
            answer = (await http.post("/v1/chat/completions", json=asked)).json()
            prompt = "[user]Hello[assistant]now5[tool]xc1"
            assert answer["choices"][0]["message"]["content"] == one.expected(prompt, 5)
            asked |= {"tool_choice": "required", "max_tokens": 50}
            answer = (await http.post("/v1/chat/completions", json=asked)).json()
            assert answer["usage"]["prompt_tokens"] == len("<now>" + prompt)
            assert answer["choices"][0]["message"]["tool_calls"][0]["function"] == {"name": "now", "arguments": "{}"}

    run(test)


def test_arguments_that_are_no_object_stay_as_they_are() -> None:
    for arguments in ("{", "[1]"):
        call = {"id": "c", "function": {"name": "f", "arguments": arguments}}
        message = Message.model_validate({"role": "assistant", "tool_calls": [call]})
        assert message.for_template()["tool_calls"][0]["function"]["arguments"] == arguments


def test_references_within_parameters_stay_within() -> None:
    text = constraint_of([Tool.model_validate(tool).function for tool in (NOW, WEATHER)], "required").text
    assert json.loads(text)["anyOf"][1]["properties"]["arguments"]["properties"]["city"] == {
        "$ref": "#/anyOf/1/properties/arguments/$defs/city"
    }


@pytest.mark.parametrize("arguments", ["{}", '{"a": {"b": "}} "}}', '{"a": [1, 2]\n}'])
@pytest.mark.parametrize("between", ["", " ", "\n    "])
def test_a_call_is_read_the_same_however_it_is_cut(arguments: str, between: str) -> None:
    text = f'{{{between}"name":{between}"f-1"{between},"arguments":{between}{arguments}{between}}}'
    for size in (1, 2, 3, 7, len(text)):
        reader, found = CallReader(None), ""
        for start in range(0, len(text), size):
            found += reader.push(text[start : start + size])
            assert arguments.startswith(found)
        assert found + reader.flush(is_complete=True) == arguments and reader.name == "f-1"
    cut = CallReader(None)
    assert cut.push(text[:-1]) + cut.flush(is_complete=False) == arguments + between
    assert (CallReader(None).push('{"na'), CallReader("f").push('{"na')) == ("", '{"na')


# Calls in free text

CALLING_TEMPLATE = ChatTemplate(
    "{% for tool in tools or [] %}{{ tool.function.name }}{% endfor %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]{# write <tool_call> #}"
)
CALL = '<tool_call>\n{"name": "now", "arguments": {"zone": "\u00e9"}}\n</tool_call>'


def answer_that_is(text: str, **asked: Any) -> dict[str, Any]:
    """A request whose answer can be nothing else."""
    return {
        **GREEDY,
        "model": "fake",
        "tools": [WEATHER, NOW],
        "max_tokens": 200,
        "structured_outputs": {"choice": [text]},
        **asked,
    }


@pytest.mark.parametrize(
    ("text", "content", "names", "reason"),
    [
        ("no call", "no call", [], "stop"),
        (CALL, None, ["now"], "tool_calls"),
        (f"Let me see.\n{CALL}\n{CALL}", "Let me see.", ["now", "now"], "tool_calls"),
        (CALL.replace("now", "then"), CALL.replace("now", "then"), [], "stop"),
    ],
    ids=["none", "one", "two", "unknown"],
)
def test_a_model_may_call_in_its_own_way(text: str, content: str | None, names: list[str], reason: str) -> None:
    async def test() -> None:
        async with http_world(Sizes(alphabet=range(256)), template=CALLING_TEMPLATE) as one:
            url = f"http://127.0.0.1:{one.port}/v1"
            async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
                asked = answer_that_is(text)
                asked["extra_body"] = {"structured_outputs": asked.pop("structured_outputs")}
                whole = (await client.chat.completions.create(**asked)).choices[0]
                async with client.chat.completions.stream(**asked) as stream:
                    final = (await stream.get_final_completion()).choices[0]
                for found in (whole, final):
                    calls = found.message.tool_calls or []
                    assert (found.message.content, found.finish_reason) == (content, reason)
                    assert [call.function.name for call in calls] == names
                    assert all(json.loads(call.function.arguments) == {"zone": "\u00e9"} for call in calls)
                    assert len({call.id for call in calls}) == len(calls)

    run(test)


def test_calls_in_free_text_are_for_models_that_write_them() -> None:
    async def test() -> None:
        async with http_world() as one, one.client() as http:
            for choice in ({}, {"tool_choice": "auto"}):
                refused = await http.post("/v1/chat/completions", json=answer_that_is("x", **choice))
                error = refused.json()["error"]
                assert refused.status_code == 400 and error["param"] == "tool_choice"
                assert "<tool_call>" in error["message"]

    run(test)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a <b> c ", ["a <b> c "]),
        ("\n\nHi", ["\n\nHi"]),
        ("   ", ["   "]),
        (f"{CALL}\n ", [Call("now", '{"zone": "\u00e9"}')]),
        ('<tool_call>{"name": "now"}', [Call("now", "{}")]),
        (
            'so: <tool_call>{"name": "now", "arguments": {"a": "</tool_call>"}}</tool_call> done',
            ["so:", Call("now", '{"a": "</tool_call>"}'), "done"],
        ),
        ("x <tool_call>{bad", ["x <tool_call>{bad"]),
        ("<tool_call>" + "[" * 50_000, ["<tool_call>" + "[" * 50_000]),
    ],
)
def test_a_call_in_free_text_is_found_however_it_is_cut(text: str, expected: list[str | Call]) -> None:
    for size in (1, 2, 7, len(text)) if len(text) < 1000 else (999,):
        reader = FreeCallReader({"now"})
        found: list[str | Call] = []
        for start in range(0, len(text), size):
            found += reader.push(text[start : start + size])
        joined: list[str | Call] = []
        for one in [*found, *reader.flush()]:
            if isinstance(one, str) and joined and isinstance(joined[-1], str):
                joined[-1] += one
            else:
                joined.append(one)
        assert joined == expected
