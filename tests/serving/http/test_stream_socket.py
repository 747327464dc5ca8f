"""Streaming context over a WebSocket, over a fake engine whose output is known."""

import json
import random
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from serving.client import AsyncClient, SamplingParams
from serving.http.server import HttpConfig
from tests.serving.harness import Sizes, eventually, run
from tests.serving.http.http_harness import HttpWorld, http_world
from tests.serving.http.test_life import Gate

OPEN = {"open": {"content": "The ", "params": {"max_tokens": 6}}}


def _connect(one: HttpWorld, **options: Any) -> connect:
    return connect(f"ws://127.0.0.1:{one.port}/v1/stream", **options)


async def _rest(socket: ClientConnection) -> list[dict[str, Any]]:
    """All events to the end; whatever way the server closes."""
    events = []
    try:
        while True:
            events.append(json.loads(await socket.recv()))
    except ConnectionClosed:
        return events


async def _exchange(one: HttpWorld, *messages: Any) -> tuple[list[dict[str, Any]], int | None]:
    async with _connect(one) as socket:
        for message in messages:
            await socket.send(message if isinstance(message, str | bytes) else json.dumps(message))
        events = await _rest(socket)
        return events, socket.close_code


def _text(events: list[dict[str, Any]]) -> str:
    return "".join(event["token"]["text"] for event in events if "token" in event)


def test_the_same_events_as_grpc() -> None:
    async def test() -> None:
        async with http_world() as one, AsyncClient(one.behind.target) as client:
            events, code = await _exchange(
                one,
                OPEN | {"seq": 1},
                {"append": {"content": "quick "}},
                {"append": {"content": "fox"}},
                {"finish": {}},
            )
            assert code == 1000
            whole = await client.generate("The quick fox", SamplingParams(max_tokens=6))
            assert _text(events) == whole.text == one.expected("The quick fox", 6)
            accepted = [event["accepted"] for event in events if "accepted" in event]
            assert [one["seq"] for one in accepted] == [1, 2, 3, 4]
            assert [one["context_tokens"] for one in accepted] == [4, 10, 13, 13]
            assert events[-1]["done"]["finish_reason"] == "length"
            first_token = next(i for i, event in enumerate(events) if "token" in event)
            assert events.index({"accepted": accepted[-1]}) < first_token

    run(test)


def test_updates_parameters_and_token_ids() -> None:
    async def test() -> None:
        async with http_world() as one:
            params = {"max_tokens": 9, "stop": ["never"], "stop_token_ids": [0], "logprobs": 1, "seed": 2**64 - 1}
            opening = {"open": {"session_id": "w", "content": list(b"abc"), "params": params, "priority": -3}}
            change = {"update": {"keep_tokens": 1, "content": list(b"xy"), "final": True}, "seq": 2}
            events, code = await _exchange(one, opening, change)
            assert code == 1000 and events[0]["accepted"]["session_id"] == "w"
            assert next(e["accepted"] for e in events[1:] if "accepted" in e)["kept_tokens"] == 1
            assert _text(events) == one.expected("axy", 9)
            tokens = [event["token"] for event in events if "token" in event]
            assert all(len(t["ids"]) == len(t["logprobs"]) == len(t["top"]) for t in tokens)
            events, _ = await _exchange(one, {"open": {"content": "hi", "final": True}})
            assert _text(events) == one.expected("hi", 8)

    run(test)


@pytest.mark.parametrize(
    ("messages", "code", "hint"),
    [
        (["{"], 4400, "not JSON"),
        ([b"\x00"], 4400, "binary"),
        ([{}], 4400, "one event"),
        ([OPEN | {"finish": {}}], 4400, "one event"),
        ([{"finish": {}}], 4400, "must be `open`"),
        ([{"open": {"colour": 1}}], 4400, "open.colour"),
        ([{"open": {"params": {"temperature": -1}}}], 4400, "temperature"),
        ([OPEN, {"append": {"content": "x"}, "seq": 5}], 4400, "events are missing"),
        ([OPEN, {"append": {"content": [1]}}], 4400, "token ids"),
        ([OPEN, {"append": {"content": "x" * 300}}], 4400, "exceed"),
    ],
)
def test_errors_are_events_and_close_the_connection(messages: list[Any], code: int, hint: str) -> None:
    async def test() -> None:
        async with http_world() as one:
            events, closed_with = await _exchange(one, *messages)
            assert closed_with == code
            assert hint in events[-1]["error"]["message"], events
            await eventually(one.behind.is_empty)

    run(test)


def test_a_full_and_a_draining_server() -> None:
    async def test() -> None:
        async with http_world(Sizes(max_sessions=1)) as one, _connect(one) as socket:
            await socket.send(json.dumps(OPEN))
            assert "accepted" in json.loads(await socket.recv())
            events, code = await _exchange(one, OPEN)
            assert code == 4429 and events[-1]["error"]["type"] == "rate_limit_error"
            assert not await one.behind.server.stop(0.05)
            events = await _rest(socket)
            assert events[-1]["error"]["code"] == "unavailable" and socket.close_code == 4503

    run(test)


def test_cancel_is_acknowledged() -> None:
    async def test() -> None:
        async with http_world() as one:
            events, code = await _exchange(one, OPEN, {"cancel": {}, "seq": 2})
            assert code == 1000 and events[-1]["done"]["finish_reason"] == "cancelled"
            assert events[-2]["accepted"]["seq"] == 2

    run(test)


@pytest.mark.parametrize("is_final", [False, True])
def test_a_client_that_goes_cancels_its_session(is_final: bool) -> None:
    async def test() -> None:
        gate = Gate(steps=0)
        async with http_world(Sizes(hook=gate)) as one:
            async with _connect(one) as socket:
                await socket.send(json.dumps({"open": {"content": "abc", "final": is_final}}))
                assert "accepted" in json.loads(await socket.recv())
            await eventually(lambda: one.orchestrator.stats().sessions_open == 0)
            gate.is_open.set()
            await eventually(one.behind.is_empty)
            assert one.orchestrator.stats().counters.sessions_cancelled == 1

    run(test)


def test_pages_of_other_sites_are_refused() -> None:
    async def test() -> None:
        async with http_world() as one:
            with pytest.raises(InvalidStatus, match="403"):
                async with _connect(one, origin="https://evil.example"):
                    pass
            async with _connect(one, origin=one.url):
                pass

    run(test)


def test_long_messages_end_the_connection() -> None:
    async def test() -> None:
        async with http_world(config=HttpConfig(port=0, max_body_bytes=1000)) as one:
            events, code = await _exchange(one, OPEN, {"append": {"content": "x" * 2000}})
            assert code == 1009 and all("accepted" in event for event in events)
            await eventually(one.behind.is_empty)

    run(test)


def test_random_messages_leave_nothing_behind() -> None:
    values = [None, 0, -1, 2**63, 1.5, "", "x", "\ud83d", [], [1], [300], ["a"], {}, True]
    fields = ["content", "final", "params", "session_id", "keep_chars", "keep_tokens", "priority", "add_bos", "seq"]
    names = ["open", "append", "update", "finish", "cancel", "seq"]

    def message(chance: random.Random) -> str | bytes:
        if chance.random() < 0.05:
            return chance.choice([b"\x00\xff", "{", "null", "[]", "7", '"open"', "{" * 2000])
        if chance.random() < 0.6:
            return json.dumps(chance.choice([OPEN, {"append": {"content": "y"}}, {"finish": {}}, {"cancel": {}}]))
        body = {name: chance.choice(values) for name in chance.sample(fields, chance.randrange(3))}
        return json.dumps({name: chance.choice([body, *values]) for name in chance.sample(names, chance.randrange(3))})

    async def test() -> None:
        async with http_world() as one, one.client() as client:
            last = []
            for seed in range(150):
                chance = random.Random(seed)
                first = [json.dumps(OPEN)] if chance.random() < 0.8 else []
                more = [message(chance) for _ in range(chance.randrange(6))]
                async with _connect(one) as socket:
                    try:
                        for text in [*first, *more]:
                            await socket.send(text)
                    except ConnectionClosed:
                        pass
                    if chance.random() < 0.5:
                        events = await _rest(socket) if more and "finish" in str(more) else []
                        last += events[-1:]
            await eventually(one.behind.is_empty)
            assert (await client.get("/ready")).status_code == 200
            errors = {event["error"]["code"] for event in last if "error" in event}
            assert errors <= {"invalid_argument", "failed_precondition", "not_found"} and len(errors) >= 1
            assert any("done" in event for event in last)

    run(test, 60)
