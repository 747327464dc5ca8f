"""Clients that go or do not read, servers that drain, engines that fail."""

import asyncio
import json
import threading

import pytest

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.core.plan import StepPlan
from serving.http.server import HttpConfig
from tests.serving.harness import Sizes, eventually, run
from tests.serving.http.http_harness import HttpWorld, http_world

LONG = {"prompt": "hi", "max_tokens": 200, "temperature": 0}


class Gate:
    """Holds the engine after some steps, until it is opened."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.is_open = threading.Event()

    def __call__(self, plan: StepPlan) -> None:
        self.steps -= 1
        if self.steps < 0:
            assert self.is_open.wait(20)


async def _send(one: HttpWorld, body: dict[str, object]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
    writer.write(head.encode() + b"\r\n\r\n" + data)
    return reader, writer


@pytest.mark.parametrize("body", [LONG, LONG | {"stream": True}, LONG | {"n": 3}, LONG | {"n": 3, "stream": True}])
def test_a_client_that_goes_ends_its_sessions(body: dict[str, object]) -> None:
    async def test() -> None:
        gate = Gate(steps=5)
        async with http_world(Sizes(hook=gate)) as one:
            reader, writer = await _send(one, body)
            wanted = body.get("n", 1)
            await eventually(lambda: one.orchestrator.stats().sessions_open == wanted and gate.steps < 0)
            if body.get("stream"):
                assert b"200 OK" in await reader.read(100)
            writer.close()
            # Ended while the engine stands still, so it is the disconnect that did it.
            await eventually(lambda: one.orchestrator.stats().sessions_open == 0)
            gate.is_open.set()
            await eventually(one.behind.is_empty)
            counters = one.orchestrator.stats().counters
            assert counters.sessions_cancelled == wanted and counters.sessions_completed == 0

    run(test)


def test_a_client_that_does_not_read_is_cut_off() -> None:
    async def test() -> None:
        config = HttpConfig(port=0, send_timeout_s=0.3)
        sizes = Sizes(model_len=8192, num_blocks=4096)
        async with http_world(sizes, config) as one:
            body = LONG | {"max_tokens": 8000, "n": 4, "stream": True, "logprobs": 20}
            _, writer = await _send(one, body)
            # The connection ends, though the client neither reads nor closes.
            await eventually(lambda: len(one.server._server.server_state.connections) == 0, timeout_s=15)
            await eventually(one.behind.is_empty, timeout_s=15)
            writer.transport.abort()

    run(test, 40)


def test_draining_lets_answers_end_and_says_not_ready() -> None:
    async def test() -> None:
        gate = Gate(steps=3)
        async with http_world(Sizes(hook=gate)) as one, one.client() as client:
            assert (await client.get("/health")).json() == {"status": "ok"}
            assert (await client.get("/ready")).json() == {"status": "ready"}
            answers = [
                asyncio.create_task(client.post("/v1/completions", json=LONG | {"stream": stream, "max_tokens": 20}))
                for stream in (False, True)
            ]
            await eventually(lambda: one.orchestrator.stats().sessions_open == 2)
            stopping = asyncio.create_task(one.behind.server.stop(10))
            await eventually(lambda: one.orchestrator.unready() is not None)
            ready = await client.get("/ready")
            assert ready.status_code == 503 and "shutting down" in ready.json()["error"]["message"]
            assert int(ready.headers["Retry-After"]) >= 1
            assert (await client.get("/health")).status_code == 200
            refused = await client.post("/v1/completions", json=LONG)
            assert refused.status_code == 503 and refused.json()["error"]["code"] == "unavailable"
            gate.is_open.set()
            assert await stopping
            await one.server.stop()
            whole, stream = await asyncio.gather(*answers)
            assert whole.json()["choices"][0]["text"] == one.expected("hi", 20)
            events = [json.loads(line[6:]) for line in stream.text.splitlines() if line.startswith("data: {")]
            assert "".join(event["choices"][0]["text"] for event in events) == one.expected("hi", 20)
            assert stream.text.endswith("data: [DONE]\n\n")

    run(test)


def test_an_engine_that_fails_is_an_error_before_and_in_a_stream() -> None:
    steps = 0

    def fail(plan: StepPlan) -> None:
        nonlocal steps
        steps += 1
        if steps % 5 == 0:
            raise RuntimeError("the device is on fire")

    async def test() -> None:
        async with http_world(Sizes(hook=fail)) as one, one.client() as client:
            whole = await client.post("/v1/completions", json=LONG)
            assert whole.status_code == 500 and whole.json()["error"]["type"] == "server_error"
            assert "Traceback" not in whole.text
            stream = await client.post("/v1/completions", json=LONG | {"stream": True})
            assert stream.status_code == 200 and "[DONE]" not in stream.text
            last = json.loads(stream.text.strip().splitlines()[-1].removeprefix("data: "))
            assert last["error"]["type"] == "server_error"
            await eventually(one.behind.is_empty)

    run(test)


def test_a_defect_stays_inside(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with http_world() as one, one.client() as client:
            monkeypatch.setattr(one.orchestrator, "unready", lambda: 1 / 0)
            response = await client.get("/ready")
            assert response.status_code == 500 and "division" not in response.text
            reference = response.json()["error"]["message"].rsplit(" ", 1)[1]
            assert reference in caplog.text and "ZeroDivisionError" in caplog.text
            assert (await client.get("/health")).status_code == 200

    run(test)


def test_a_port_in_use_is_a_friendly_error() -> None:
    async def test() -> None:
        async with http_world() as one:
            with pytest.raises(InvalidArgument, match="--http-port"):
                async with http_world(config=HttpConfig(port=one.port)):
                    pass

    run(test)
