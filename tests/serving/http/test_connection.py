"""Connections: how many, and how long one may take to say what it wants."""

import asyncio
import json
import logging

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from serving.http.server import HttpConfig
from tests.serving.harness import Sizes, eventually, run
from tests.serving.http.http_harness import http_world
from tests.serving.http.test_life import Gate

SLOW = HttpConfig(port=0, head_timeout_s=0.3)
GET = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


def test_a_head_must_come_in_time() -> None:
    async def test() -> None:
        async with http_world(config=SLOW) as one:
            for first in (b"", b"GET /health HT", GET):  # nothing, a part, and a second head on a connection kept alive
                reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
                writer.write(first)
                if first == GET:
                    await reader.readuntil(b'{"status":"ok"}')
                reading = asyncio.create_task(reader.read())
                async with asyncio.timeout(5):
                    while not reading.done():  # byte by byte does not help
                        if first:
                            writer.write(b"G" if first == GET else b"T")
                        await asyncio.sleep(0.05)
                assert reading.exception() is not None or reading.result() == b""
                writer.close()
            assert not one.server._server.server_state.connections

    run(test)


def test_the_limit_is_on_heads_alone() -> None:
    async def test() -> None:
        gate = Gate(steps=2)
        async with http_world(Sizes(hook=gate), SLOW) as one, one.client() as client:
            body = {"prompt": "hi", "max_tokens": 8, "temperature": 0}
            answers = [
                asyncio.create_task(client.post("/v1/completions", json=body | more)) for more in ({}, {"stream": True})
            ]
            await eventually(lambda: one.orchestrator.stats().sessions_open == 2)
            await asyncio.sleep(0.6)
            gate.is_open.set()
            whole, stream = await asyncio.gather(*answers)
            assert whole.json()["choices"][0]["text"] == one.expected("hi", 8)
            assert stream.text.endswith("[DONE]\n\n")

    run(test)


def test_a_web_socket_must_open_its_session_in_time() -> None:
    async def test() -> None:
        async with http_world(config=SLOW) as one:
            url = f"ws://127.0.0.1:{one.port}/v1/stream"
            async with connect(url) as socket:
                event = json.loads(await socket.recv())
                assert event["error"]["code"] == "deadline_exceeded" and "first event" in event["error"]["message"]
                try:
                    await socket.recv()
                except ConnectionClosed:
                    assert socket.close_code == 4504
            async with connect(url) as socket:
                await socket.send(json.dumps({"open": {"content": "hi", "params": {"max_tokens": 4}}}))
                assert "accepted" in json.loads(await socket.recv())
                await asyncio.sleep(0.6)
                await socket.send(json.dumps({"finish": {}}))
                events = [json.loads(message) async for message in socket]
                assert events[-1]["done"]["finish_reason"] == "length"

    run(test)


def test_one_connection_too_many_is_told_so() -> None:
    async def test() -> None:
        async with http_world(config=HttpConfig(port=0, max_connections=2)) as one:
            held = [await asyncio.open_connection("127.0.0.1", one.port) for _ in range(2)]
            await eventually(lambda: len(one.server._server.server_state.connections) == 2)
            reader, _ = await asyncio.open_connection("127.0.0.1", one.port)
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 ") and b"Retry-After: 1" in head
            assert "2 connections, its limit" in json.loads(body)["error"]["message"]
            held[0][1].close()
            await eventually(lambda: len(one.server._server.server_state.connections) == 1)
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(GET)
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
            writer.close()
            held[1][1].close()

    run(test)


def test_a_body_that_stops_being_http_is_refused_and_no_defect(caplog: pytest.LogCaptureFixture) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"

    async def test() -> None:
        async with http_world() as one:
            for pause_s in (0.0, 0.05):
                reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
                writer.write(head + b"5\r\n{   \r")
                await asyncio.sleep(pause_s)
                writer.write(b"no chunk at all\r\n")
                assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
                writer.close()
            await eventually(lambda: not one.server._server.server_state.tasks)
            assert not [record for record in caplog.records if record.levelno >= logging.ERROR]

    run(test)
