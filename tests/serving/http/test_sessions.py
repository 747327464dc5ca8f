"""Streaming context in plain requests, over a fake engine whose output is known."""

import asyncio
import json
from typing import Any

import httpx2
import pytest

from s2l_jax.core.errors import NotFound, Unavailable
from serving.http.session_requests import Open
from serving.http.session_table import SessionTable
from tests.serving.harness import Sizes, eventually, run
from tests.serving.http.http_harness import HttpWorld, http_world
from tests.serving.http.test_life import Gate

PARAMS = {"max_tokens": 6}


def _events(text: str) -> list[dict[str, Any]]:
    assert text.endswith("\n\n")
    return [json.loads(part.removeprefix("data: ")) for part in text.strip().split("\n\n")]


def _text(events: list[dict[str, Any]]) -> str:
    return "".join(event["token"]["text"] for event in events if "token" in event)


async def _open(client: httpx2.AsyncClient, **body: Any) -> str:
    response = await client.post("/v1/sessions", json={"params": PARAMS} | body)
    assert response.status_code == 201, response.text
    session_id: str = response.json()["session_id"]
    return session_id


async def _post(client: httpx2.AsyncClient, path: str, body: Any = None) -> dict[str, Any]:
    response = await client.post(f"/v1/sessions/{path}", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def _refusal(client: httpx2.AsyncClient, path: str, body: Any, status: int) -> str:
    response = await client.post(f"/v1/sessions/{path}", json=body)
    assert response.status_code == status, response.text
    message: str = response.json()["error"]["message"]
    return message


def test_pieces_answer_like_the_whole() -> None:
    async def test() -> None:
        async with http_world() as one, one.client() as client:
            opened = await client.post("/v1/sessions", json={"session_id": "s 1", "content": "The ", "params": PARAMS})
            assert opened.status_code == 201
            assert opened.json() == {
                "session_id": "s 1",
                "seq": 1,
                "context_tokens": 4,
                "kept_tokens": 0,
                "invalidated_tokens": 0,
            }
            assert (await _post(client, "s 1/append", {"content": "quick "}))["context_tokens"] == 10
            assert (await _post(client, "s 1/append", {"content": "fox", "seq": 3}))["seq"] == 3
            reading = asyncio.create_task(client.get("/v1/sessions/s 1/output"))
            assert (await _post(client, "s 1/finish"))["seq"] == 4
            output = await reading
            assert output.headers["content-type"].startswith("text/event-stream")
            events = _events(output.text)
            assert _text(events) == one.expected("The quick fox", 6)
            done = events[-1]["done"]
            assert done["finish_reason"] == "length" and done["prompt_tokens"] == 13 and done["output_tokens"] == 6
            assert 0 < done["ttft_final_s"] <= done["ttft_open_s"]
            assert (await client.get("/v1/sessions/s 1/output")).status_code == 404
            completion = {"prompt": "The quick fox", "max_tokens": 6, "temperature": 0}
            whole = (await client.post("/v1/completions", json=completion)).json()
            assert whole["choices"][0]["text"] == _text(events)

    run(test)


def test_updates_keep_the_common_prefix() -> None:
    async def test() -> None:
        async with http_world() as one, one.client() as client:
            text = await _open(client, content="one two three")
            answer = await _post(client, f"{text}/update", {"keep_chars": 4, "content": "two four", "final": True})
            assert answer["kept_tokens"] == 8 and answer["context_tokens"] == 12
            assert _text(_events((await client.get(f"/v1/sessions/{text}/output")).text)) == one.expected(
                "one two four", 6
            )
            ids = await _open(client, content=list(b"abc"))
            assert (await _post(client, f"{ids}/update", {"keep_tokens": 2, "content": list(b"xyz")}))[
                "kept_tokens"
            ] == 2
            await _post(client, f"{ids}/append", {"content": list(b"!"), "final": True})
            assert _text(_events((await client.get(f"/v1/sessions/{ids}/output")).text)) == one.expected("abxyz!", 6)
            await eventually(one.behind.is_empty)

    run(test)


def test_output_in_the_answer_to_open() -> None:
    async def test() -> None:
        async with http_world() as one, one.client() as client:
            body = {"session_id": "s", "content": "Hello ", "params": PARAMS | {"logprobs": 2}, "stream": True}
            async with client.stream("POST", "/v1/sessions", json=body) as response:
                assert response.status_code == 200
                lines = response.aiter_lines()
                first = json.loads((await anext(lines)).removeprefix("data: "))
                assert first["accepted"]["session_id"] == "s" and first["accepted"]["context_tokens"] == 6
                assert "being read" in (await client.get("/v1/sessions/s/output")).json()["error"]["message"]
                await _post(client, "s/append", {"content": "world", "final": True})
                rest = [json.loads(line.removeprefix("data: ")) async for line in lines if line]
            assert _text(rest) == one.expected("Hello world", 6)
            token = next(event["token"] for event in rest if "token" in event)
            assert len(token["logprobs"]) == len(token["ids"]) and len(token["top"][0]["ids"]) == 2
            plain = {"content": "hi", "params": PARAMS, "final": True, "stream": True}
            events = _events((await client.post("/v1/sessions", json=plain)).text)
            assert "accepted" in events[0] and _text(events) == one.expected("hi", 6)

    run(test)


def test_repeats_change_nothing_and_gaps_are_refused() -> None:
    async def test() -> None:
        async with http_world() as one, one.client() as client:
            name = await _open(client, content="a")
            first = await _post(client, f"{name}/append", {"content": "b", "seq": 2})
            again = await _post(client, f"{name}/append", {"content": "b", "seq": 2})
            assert first["context_tokens"] == again["context_tokens"] == 2
            await _refusal(client, f"{name}/append", {"content": "c", "seq": 9}, 400)
            assert "text" in await _refusal(client, f"{name}/append", {"content": [1, 2]}, 400)
            assert "keep_chars" in await _refusal(client, f"{name}/update", {"keep_chars": 99}, 400)
            assert "colour" in await _refusal(client, f"{name}/append", {"colour": 1}, 400)
            assert "content" in await _refusal(client, f"{name}/append", {"content": {"text": "x"}}, 400)
            assert "exceed" in await _refusal(client, f"{name}/append", {"content": "x" * 300}, 400)
            opened = await client.post("/v1/sessions", json={"session_id": name})
            assert opened.status_code == 409 and opened.json()["error"]["code"] == "already_exists"
            await _post(client, f"{name}/append", {"content": "c", "seq": 3, "final": True})
            assert _text(_events((await client.get(f"/v1/sessions/{name}/output")).text)) == one.expected("abc", 6)
            assert "no session" in await _refusal(client, f"{name}/append", {"content": "d"}, 404)
            for body in ({"session_id": "a/b"}, {"session_id": ""}, {"params": {"temperature": -1}}, {"model": "x"}):
                status = 404 if "model" in body else 400
                assert (await client.post("/v1/sessions", json=body)).status_code == status
            assert (await client.get("/v1/sessions/nobody/output")).status_code == 404
            assert (await client.delete("/v1/sessions/nobody")).status_code == 404

    run(test)


def test_what_is_complete_cannot_change() -> None:
    async def test() -> None:
        gate = Gate(steps=0)
        async with http_world(Sizes(hook=gate)) as one, one.client() as client:
            name = await _open(client, content="a", final=True)
            message = await _refusal(client, f"{name}/append", {"content": "b"}, 400)
            assert "cannot change" in message
            gate.is_open.set()
            assert _text(_events((await client.get(f"/v1/sessions/{name}/output")).text)) == one.expected("a", 6)

    run(test)


def test_cancelled_with_and_without_a_reader() -> None:
    async def test() -> None:
        async with http_world() as one, one.client() as client:
            name = await _open(client, content="a")
            assert (await client.delete(f"/v1/sessions/{name}?seq=7")).status_code == 400
            assert (await client.delete(f"/v1/sessions/{name}?seq=2")).status_code == 204
            assert (await client.delete(f"/v1/sessions/{name}")).status_code == 404
            name = await _open(client, content="a")
            reading = asyncio.create_task(client.get(f"/v1/sessions/{name}/output"))
            await asyncio.sleep(0.05)
            assert (await client.delete(f"/v1/sessions/{name}")).status_code == 204
            assert _events((await reading).text)[-1]["done"]["finish_reason"] == "cancelled"
            await eventually(one.behind.is_empty)

    run(test)


def test_a_reader_that_goes_cancels_the_session() -> None:
    async def test() -> None:
        async with http_world() as one, one.client() as client:
            name = await _open(client, content="a")
            async with client.stream("GET", f"/v1/sessions/{name}/output") as response:
                assert response.status_code == 200
                assert one.orchestrator.stats().sessions_open == 1
            await eventually(one.behind.is_empty)
            assert one.orchestrator.stats().counters.sessions_cancelled == 1
            assert "no session" in await _refusal(client, f"{name}/append", {"content": "b"}, 404)

    run(test)


def test_sessions_that_fail_say_why() -> None:
    async def test() -> None:
        async with http_world(Sizes(idle_timeout_s=0.1)) as one, one.client() as client:
            name = await _open(client, content="a")
            events = _events((await client.get(f"/v1/sessions/{name}/output")).text)
            assert (
                events[-1]["error"]["code"] == "deadline_exceeded" and "no event came" in events[-1]["error"]["message"]
            )
            await eventually(one.behind.is_empty)

    run(test)


def test_output_that_nobody_reads_is_dropped() -> None:
    async def test() -> None:
        now_s = 0.0
        async with http_world(Sizes(max_sessions=2)) as one:
            table, me = (
                SessionTable(_backend(one), keep_s=10.0, clock=lambda: now_s),
                one.behind.tenants.account_of(None),
            )

            async def ended() -> str:
                session, _ = await table.open(me, Open(content="a", final=True))
                await eventually(lambda: session.ended_s is not None)
                return session.id

            first = await ended()
            now_s = 5.0
            second, third = await ended(), await ended()
            assert table.find(me, first) and table.find(me, second)
            fourth = await ended()  # one more than may be open, so the oldest goes
            with pytest.raises(NotFound):
                table.find(me, first)
            now_s = 15.0
            await ended()
            for name in (second, third, fourth):
                with pytest.raises(NotFound):
                    table.find(me, name)

    run(test)


def test_a_session_that_failed_is_kept_for_its_reader() -> None:
    async def test() -> None:
        async with http_world() as one:
            table, me = SessionTable(_backend(one)), one.behind.tenants.account_of(None)
            session, _ = await table.open(me, Open(content="a"))
            one.orchestrator.close()
            await eventually(lambda: session.ended_s is not None)
            assert table.find(me, session.id) is session
            with pytest.raises(Unavailable):
                _ = [event async for event in session.events()]

    run(test)


def test_the_schema_describes_every_field() -> None:
    async def test() -> None:
        async with http_world() as one, one.client() as client:
            schema = (await client.get("/openapi.json")).json()
            assert {"/v1/sessions", "/v1/sessions/{session_id}/append", "/v1/chat/completions"} <= schema[
                "paths"
            ].keys()
            for path in schema["paths"].values():
                for operation in path.values():
                    assert operation.get("description"), operation["operationId"]
            requests = [name for name in schema["components"]["schemas"] if name.endswith("Request")]
            assert len(requests) >= 8
            for name in requests:
                for field, one_schema in schema["components"]["schemas"][name]["properties"].items():
                    assert one_schema.get("description"), (name, field)

    run(test)


def _backend(one: HttpWorld) -> Any:
    return one.server._backend
