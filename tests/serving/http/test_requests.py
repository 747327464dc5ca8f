"""What requests are refused, and how: over a fake engine, by bare HTTP."""

import asyncio
import json
from typing import Any

import pytest

from s2l_jax.core.errors import DeadlineExceeded, InternalError, ResourceExhausted, S2LError, Unavailable
from s2l_jax.models.chat import ChatTemplate
from serving.http.errors import error_body, error_headers, http_status
from serving.http.fields import HARMLESS
from serving.http.server import HttpConfig
from serving.status import Cancelled
from tests.serving.harness import MAX_MODEL_LEN, Sizes, run
from tests.serving.http.http_harness import HttpWorld, http_world

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
TEXT = {"prompt": "hi"}
COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def _tool(name: str, parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOL = _tool("f", {"type": "object"})


def _format(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


REFUSED: list[tuple[str, dict[str, Any], str | None, str]] = [
    (COMPLETIONS, {}, "prompt", "required"),
    (COMPLETIONS, {"prompt": {}}, "prompt", "a text, a list of token ids"),
    (COMPLETIONS, {"prompt": [1, "a"]}, "prompt[1]", "integer"),
    (COMPLETIONS, {"prompt": ""}, None, "nothing to generate from"),
    (COMPLETIONS, {"prompt": []}, None, "nothing to generate from"),
    (COMPLETIONS, {"prompt": [999]}, None, "token id 999 at position 0"),
    (COMPLETIONS, {"prompt": [2**70]}, "prompt[0]", "less than"),
    (COMPLETIONS, TEXT | {"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    (COMPLETIONS, TEXT | {"max_tokens": MAX_MODEL_LEN}, None, "exceed the limit of 256"),
    (COMPLETIONS, TEXT | {"max_tokens": 10**30}, "max_tokens", "less than"),
    (COMPLETIONS, TEXT | {"temperature": -1}, "temperature", "greater than or equal to 0"),
    (COMPLETIONS, TEXT | {"top_p": 0}, "top_p", "greater than 0"),
    (COMPLETIONS, TEXT | {"n": 0}, "n", "greater than or equal to 1"),
    (COMPLETIONS, TEXT | {"n": 9}, None, "asks for 9 answers, but 8"),
    (COMPLETIONS, {"prompt": ["a", "b", "c"], "n": 3}, None, "asks for 9 answers, but 8"),
    (COMPLETIONS, TEXT | {"n": 10**15}, None, "answers, but 8"),  # at once, and not after preparing them all
    (CHATS, CHAT | {"n": 10**15}, None, "answers, but 8"),
    (COMPLETIONS, TEXT | {"max_tokens": True}, "max_tokens", "valid integer"),
    (COMPLETIONS, TEXT | {"stop": ["a"] * 17}, None, "at most 16 strings"),
    (COMPLETIONS, TEXT | {"stop": ""}, None, "stop is ''"),
    (COMPLETIONS, TEXT | {"logprobs": 21}, "logprobs", "less than or equal to 20"),
    (COMPLETIONS, TEXT | {"priority": 5000}, "priority", "less than or equal to 1000"),
    (COMPLETIONS, TEXT | {"stream_options": {}}, "stream_options", "only for streams"),
    (COMPLETIONS, TEXT | {"colour": "red"}, "colour", "leave it out"),
    (COMPLETIONS, TEXT | {"echo": True}, "echo", "put the prompt in front of it yourself"),
    (COMPLETIONS, TEXT | {"suffix": "x"}, "suffix", "insertion"),
    (COMPLETIONS, TEXT | {"best_of": 2}, "best_of", "let it be n"),
    (COMPLETIONS, TEXT | {"logit_bias": {"5": 1}}, "logit_bias", "biases"),
    (CHATS, {"messages": []}, "messages", "at least 1"),
    (CHATS, {"messages": [{"role": "cow", "content": "moo"}]}, "messages[0].role", "'system', 'developer'"),
    (CHATS, {"messages": [{"role": "tool", "content": "x"}]}, "messages", "tool_call_id goes with the role tool"),
    (CHATS, {"messages": [{"role": "user"}]}, "messages", "has no content"),
    (CHATS, {"messages": [CHAT["messages"][0] | {"tool_calls": [CALL]}]}, "messages", "only an assistant calls"),
    (
        CHATS,
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0].type",
        "'text'",
    ),
    (CHATS, CHAT | {"tools": [{}]}, "tools[0].type", "required"),
    (CHATS, CHAT | {"tools": [TOOL]}, "tool_choice", "name a function, or give required or none"),
    (CHATS, CHAT | {"tools": [TOOL, TOOL], "tool_choice": "required"}, "tools", "two tools have one name"),
    (CHATS, CHAT | {"tools": [TOOL], "tool_choice": "some"}, "tool_choice", "'required'"),
    (CHATS, CHAT | {"tools": [TOOL], "tool_choice": 5}, "tool_choice", "the name of a function"),
    (CHATS, CHAT | {"tools": [TOOL], "tool_choice": CALL | {"function": {"name": "g"}}}, "tool_choice", "id"),
    (
        CHATS,
        CHAT | {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "tool_choice",
        "not among tools",
    ),
    (CHATS, CHAT | {"tool_choice": "required"}, "tool_choice", "not among tools"),
    (
        CHATS,
        CHAT | {"tools": [TOOL], "tool_choice": "required", "response_format": {"type": "json_object"}},
        "tool_choice",
        "give one",
    ),
    (
        CHATS,
        CHAT | {"tools": [_tool("f", {"type": "thing"})], "tool_choice": "required"},
        "tools",
        "Invalid type: thing",
    ),
    (COMPLETIONS, TEXT | {"tools": [TOOL]}, "tools", "tools are for chat"),
    (CHATS, CHAT | {"response_format": {"type": "xml"}}, "response_format.type", "'json_schema'"),
    (CHATS, CHAT | {"response_format": {"type": "json_schema"}}, "response_format.json_schema", "goes with"),
    (CHATS, CHAT | _format({"type": "thing"}), "response_format", "Invalid type: thing"),
    (CHATS, CHAT | _format({"uniqueItems": True, "type": "array"}), "response_format", "uniqueItems"),
    (CHATS, CHAT | _format([]), "response_format.json_schema.schema", "dictionary"),
    (CHATS, CHAT | _format({"const": "x" * (1 << 16)}), "response_format", "1 to 65536"),
    (COMPLETIONS, TEXT | {"structured_outputs": {}}, "structured_outputs", "has one field"),
    (COMPLETIONS, TEXT | {"structured_outputs": {"regex": "a", "json": {}}}, "structured_outputs", "has one field"),
    (COMPLETIONS, TEXT | {"structured_outputs": {"regex": "(a"}}, "structured_outputs", "unclosed group"),
    (COMPLETIONS, TEXT | {"structured_outputs": {"json": "{"}}, "structured_outputs", "EOF"),
    (COMPLETIONS, TEXT | {"structured_outputs": {"choice": []}}, "structured_outputs", "has 0 texts"),
    (COMPLETIONS, TEXT | {"structured_outputs": {"grammar": "x"}}, "structured_outputs.grammar", "leave it out"),
    (
        COMPLETIONS,
        TEXT | {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
        "structured_outputs",
        "give one",
    ),
    (CHATS, CHAT | {"reasoning_effort": "high"}, "reasoning_effort", "cannot be chosen"),
    (CHATS, CHAT | {"modalities": ["text", "audio"]}, "modalities", "text alone"),
    (CHATS, CHAT | {"top_logprobs": 2}, "top_logprobs", "set logprobs"),
    ("/tokenize", {}, "prompt", "either prompt or messages"),
    ("/tokenize", {"prompt": "a", "messages": CHAT["messages"]}, "prompt", "either prompt or messages"),
    ("/detokenize", {"tokens": [3, 258]}, None, "token id 258 at position 1"),
]


async def _post(one: HttpWorld, path: str, body: Any) -> tuple[int, dict[str, Any]]:
    async with one.client() as client:
        response = await client.post(path, json=body)
        return response.status_code, response.json()


def test_wrong_requests_are_told_what_is_wrong_and_where() -> None:
    async def test() -> None:
        async with http_world() as one, one.client() as client:
            for path, body, param, hint in REFUSED:
                both = path.startswith("/v1") and "stream_options" not in body
                for stream in ({}, {"stream": True}) if both else ({},):
                    response = await client.post(path, json=body | stream)
                    assert response.status_code == 400, (path, body, response.text)
                    error = response.json()["error"]
                    assert error["type"] == "invalid_request_error" and error["code"] == "invalid_argument"
                    assert hint in error["message"], (body, error)
                    assert (error["param"] or "").startswith(param or ""), (body, error)
                    assert (error["param"] is None) == (param is None), (body, error)
            assert one.behind.is_empty()

    run(test)


def test_bodies_that_are_no_json() -> None:
    async def test() -> None:
        async with http_world() as one, one.client() as client:
            json_type = {"Content-Type": "application/json"}
            for raw in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"prompt": "hi", "temperature": NaN}', b"null", b"7"):
                response = await client.post(COMPLETIONS, content=raw, headers=json_type)
                assert response.status_code == 400 and response.json()["error"]["message"], raw[:20]
            surrogate = await client.post(COMPLETIONS, content=b'{"prompt": "\\ud800"}', headers=json_type)
            assert surrogate.status_code == 400
            plain = await client.post(COMPLETIONS, content=json.dumps(TEXT), headers={"Content-Type": "text/plain"})
            assert plain.status_code == 400 and "Content-Type" in plain.json()["error"]["message"]
            lost = await client.get("/v1/nothing")
            assert lost.status_code == 404 and "/openapi.json" in lost.json()["error"]["message"]
            wrong = await client.get(COMPLETIONS)
            assert wrong.status_code == 405 and wrong.headers["Allow"] == "POST"

    run(test)


def test_fields_without_effect_are_taken() -> None:
    neutral = {
        "audio": None,
        "echo": False,
        "logit_bias": {},
        "response_format": {"type": "text"},
        "tools": [],
        "tool_choice": "auto",
        "modalities": ["text"],
        "best_of": 1,
    }

    async def test() -> None:
        async with http_world() as one:
            body = TEXT | {"temperature": 0, "max_tokens": 5} | dict.fromkeys(HARMLESS, "anything") | neutral
            status, answer = await _post(one, COMPLETIONS, body)
            assert status == 200, answer
            assert answer["choices"][0]["text"] == one.expected("hi", 5)

    run(test)


def test_messages_in_parts_and_of_developers() -> None:
    async def test() -> None:
        async with http_world() as one:
            parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
            messages = [{"role": "developer", "content": "x"}, {"role": "user", "content": parts}]
            status, answer = await _post(one, CHATS, {"messages": messages, "temperature": 0, "max_tokens": 5})
            assert status == 200
            assert answer["choices"][0]["message"]["content"] == one.expected("[system]x[user]a\nb[assistant]", 5)

    run(test)


def test_models_without_a_template_and_templates_that_refuse() -> None:
    async def test() -> None:
        async with http_world(template=None) as one:
            status, answer = await _post(one, CHATS, CHAT)
            assert status == 400 and "/v1/completions" in answer["error"]["message"]
        async with http_world(template=ChatTemplate("{{ raise_exception('roles must alternate') }}")) as one:
            status, answer = await _post(one, CHATS, CHAT)
            assert status == 400 and "roles must alternate" in answer["error"]["message"]

    run(test)


def test_tokens_and_back() -> None:
    async def test() -> None:
        async with http_world() as one:
            status, answer = await _post(one, "/tokenize", {"prompt": "aé", "return_token_strs": True})
            assert status == 200 and answer["tokens"] == list("aé".encode()) and answer["count"] == 3
            assert answer["token_strs"] == ["a", "bytes:\\xc3", "bytes:\\xa9"]
            assert answer["max_model_len"] == MAX_MODEL_LEN
            assert await _post(one, "/detokenize", {"tokens": answer["tokens"]}) == (200, {"prompt": "aé"})
            status, answer = await _post(one, "/tokenize", CHAT)
            assert bytes(answer["tokens"]) == b"[user]hi[assistant]" and "token_strs" not in answer
            status, answer = await _post(one, "/tokenize", CHAT | {"add_generation_prompt": False})
            assert bytes(answer["tokens"]) == b"[user]hi"

    run(test)


def test_long_and_late_bodies_are_refused() -> None:
    async def test() -> None:
        async with http_world(config=HttpConfig(port=0, max_body_bytes=1000, receive_timeout_s=0.2)) as one:
            status, answer = await _post(one, COMPLETIONS, {"prompt": "x" * 2000})
            assert status == 400 and "longer than 1000 bytes" in answer["error"]["message"]

            async def without_length() -> Any:
                for _ in range(20):
                    yield b" " * 100

            async with one.client() as client:
                headers = {"Content-Type": "application/json"}
                response = await client.post(COMPLETIONS, content=without_length(), headers=headers)
                assert response.status_code == 400 and "longer than 1000" in response.text

            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            writer.write(head.encode() + b'Content-Length: 50\r\n\r\n{"prompt"')
            answering = asyncio.create_task(reader.read(1 << 16))
            while not answering.done():  # a drop now and then does not help
                writer.write(b" ")
                await asyncio.sleep(0.05)
            answer_bytes = await answering
            assert answer_bytes.startswith(b"HTTP/1.1 504 ") and b"did not come within 0.2 s" in answer_bytes
            writer.close()

    run(test)


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (ResourceExhausted("full", 1.2), 429, "rate_limit_error"),
        (Unavailable("draining", 0.01), 503, "unavailable_error"),
        (DeadlineExceeded("late"), 504, "timeout_error"),
        (InternalError("defect"), 500, "server_error"),
        (Cancelled("gone"), 499, "cancelled_error"),
    ],
)
def test_statuses(error: S2LError, status: int, kind: str) -> None:
    assert http_status(error) == status
    body = error_body(error).error
    assert body.type == kind and body.message == str(error) and body.code == error.status.lower()
    headers = error_headers(error)
    if status in {429, 503}:
        assert int(headers["Retry-After"]) >= 1 and int(headers["Retry-After-Ms"]) == pytest.approx(
            error.retry_after_s * 1000
        )
    else:
        assert headers == {}


def test_every_error_has_an_http_status() -> None:
    classes = [*S2LError.__subclasses__()]
    assert len(classes) >= 9
    assert all(400 <= http_status(cls("x")) < 600 for cls in classes)


def test_a_full_server_says_when_to_come_back() -> None:
    async def test() -> None:
        async with http_world(Sizes(max_sessions=1, retry_after_s=2.5)) as one, one.client() as client:
            one.orchestrator.open(sink=lambda event: None, session_id="holds the place")
            for stream in (False, True):
                response = await client.post(COMPLETIONS, json=TEXT | {"stream": stream})
                assert response.status_code == 429 and response.json()["error"]["type"] == "rate_limit_error"
                assert response.headers["Retry-After"] == "3" and response.headers["Retry-After-Ms"] == "2500"

    run(test)
