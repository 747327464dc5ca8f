"""Keys and tenants over gRPC."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from s2l_jax.core.errors import InvalidArgument, ResourceExhausted
from serving.client import AsyncClient, Client, SamplingParams
from serving.client.aio import AsyncSession
from serving.protos.jetstream.core.proto import (
    jetstream_pb2,
    jetstream_pb2_grpc,
    multi_lora_decoding_pb2,
    multi_lora_decoding_pb2_grpc,
)
from serving.protos.s2l.v1 import info_pb2, info_pb2_grpc, streaming_pb2, streaming_pb2_grpc
from serving.status import RETRY_AFTER_KEY, Unauthenticated
from tests.serving.harness import Sizes, World, eventually, run, threaded_world, world
from tests.serving.tenants.key_files import key_of, write_keys

GREEDY = SamplingParams(max_tokens=4)
PROMPT = "a prompt of several blocks, the same for everybody"

CALLS: dict[str, Callable[[grpc.aio.Channel], Any]] = {
    "Session": lambda channel: streaming_pb2_grpc.StreamingContextStub(channel).Session(
        iter([streaming_pb2.SessionRequest(open=streaming_pb2.Open(final=True))])
    ),
    "GetModel": lambda channel: info_pb2_grpc.InfoStub(channel).GetModel(info_pb2.GetModelRequest()),
    "GetStats": lambda channel: info_pb2_grpc.InfoStub(channel).GetStats(info_pb2.GetStatsRequest()),
    "Decode": lambda channel: jetstream_pb2_grpc.OrchestratorStub(channel).Decode(
        jetstream_pb2.DecodeRequest(max_tokens=1)
    ),
    "HealthCheck": lambda channel: jetstream_pb2_grpc.OrchestratorStub(channel).HealthCheck(
        jetstream_pb2.HealthCheckRequest()
    ),
    "models": lambda channel: multi_lora_decoding_pb2_grpc.v1Stub(channel).models(
        multi_lora_decoding_pb2.ListAdaptersRequest()
    ),
    "reflection": lambda channel: reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    ),
    "no such method": lambda channel: channel.unary_unary("/s2l.v1.Nothing/Nothing")(b""),
}


def _client(one: World, tenant: str) -> AsyncClient:
    return AsyncClient(one.target, api_key=key_of(tenant), timeout_s=10)


async def _code_of(call: Any) -> grpc.StatusCode:
    code: grpc.StatusCode = await call.code()
    return code


def test_a_refusal_that_crosses_with_a_write_keeps_its_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    send = AsyncSession._send

    async def late(session: AsyncSession, make: Callable[[], Any]) -> int:
        for _ in range(3):
            await asyncio.sleep(0)
        time.sleep(0.01)  # the whole loop waits, until the answer is there and nobody has seen it
        return await send(session, make)

    monkeypatch.setattr(AsyncSession, "_send", late)

    async def test(target: str) -> None:
        async with AsyncClient(target, api_key="wrong-but-long-enough") as client:
            for _ in range(60):
                with pytest.raises(Unauthenticated, match="not one of this server's"):
                    await client.generate("x", GREEDY)

    with threaded_world(Sizes(keys=write_keys(tmp_path / "keys.json", {"acme": {}}))) as one:
        run(lambda: test(one.target))


def test_every_method_but_health_needs_a_key(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.json", {"acme": {}})

    async def test() -> None:
        async with world(Sizes(keys=keys)) as one, grpc.aio.insecure_channel(f"127.0.0.1:{one.port}") as channel:
            for name, call in CALLS.items():
                assert await _code_of(call(channel)) == grpc.StatusCode.UNAUTHENTICATED, name
            health = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest(service=""), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            for key in ("wrong-but-long-enough", key_of("acme")[:-1]):
                async with AsyncClient(one.target, api_key=key) as client:
                    with pytest.raises(Unauthenticated, match="not one of this server's"):
                        await client.generate("x", GREEDY)
            async with AsyncClient(one.target) as client:
                with pytest.raises(Unauthenticated, match="Authorization: Bearer KEY"):
                    await client.model()
            async with _client(one, "acme") as client:
                assert (await client.model()).name == "fake"
                assert (await client.generate("x", GREEDY)).text == one.expected("x", 4)
            assert one.orchestrator.stats().counters.sessions_opened == 1

    run(test)


def test_keys_of_the_blocking_client(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.json", {"acme": {}})
    with threaded_world(Sizes(keys=keys)) as one:
        with Client(one.target, api_key=key_of("acme"), timeout_s=10) as client:
            assert client.generate("x", GREEDY).text == one.expected("x", 4)
            assert client.stats().total_blocks == 512
        with Client(one.target, timeout_s=10) as client, pytest.raises(Unauthenticated):
            client.generate("x", GREEDY)
    for key in ("", "with space", "line\n", "ä"):
        with pytest.raises(InvalidArgument, match="printable ASCII"):
            Client(api_key=key)


def test_kv_is_shared_within_a_tenant_and_never_between_two(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.json", {"acme": {}, "other": {}})

    async def test() -> None:
        async with world(Sizes(keys=keys)) as one, _client(one, "acme") as acme, _client(one, "other") as other:
            first = await acme.generate(PROMPT, GREEDY)
            again = await acme.generate(PROMPT, GREEDY)
            strange = await other.generate(PROMPT, GREEDY)
            assert first.text == again.text == strange.text == one.expected(PROMPT, 4)
            assert first.done.reused_tokens == 0 and strange.done.reused_tokens == 0
            assert again.done.reused_tokens >= 40

    run(test)


def test_tenants_may_use_the_same_session_id_at_once(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.json", {"acme": {}, "other": {}})

    async def test() -> None:
        async with (
            world(Sizes(keys=keys)) as one,
            _client(one, "acme") as acme,
            _client(one, "other") as other,
            acme.session(GREEDY, content="a", session_id="same") as mine,
            other.session(GREEDY, content="b", session_id="same") as theirs,
        ):
            await mine.finish()
            assert (await mine.result()).text == one.expected("a", 4)
            await theirs.append("c", final=True)
            result = await theirs.result()
            assert result.text == one.expected("bc", 4) and result.session_id == "same"

    run(test)


def test_limits_are_told_with_a_time_to_come_back(tmp_path: Path) -> None:
    limits = {
        "streams": {"max_streams": 1},
        "tokens": {"tokens_per_minute": 10},
        "requests": {"requests_per_minute": 2},
    }
    keys = write_keys(tmp_path / "keys.json", limits)

    async def test() -> None:
        async with world(Sizes(keys=keys)) as one:
            async with _client(one, "streams") as client, client.session(GREEDY, content="a"):
                await eventually(lambda: one.orchestrator.stats().sessions_open == 1)
                with pytest.raises(ResourceExhausted, match="open streams"):
                    await client.generate("x", GREEDY)
            await eventually(one.is_empty)
            async with _client(one, "streams") as client:
                await client.generate("x", GREEDY)
            async with _client(one, "tokens") as client:
                await client.generate("x" * 10, GREEDY)
                with pytest.raises(ResourceExhausted, match="10 tokens a minute") as refused:
                    await client.generate("x", GREEDY)
                assert 20 < refused.value.retry_after_s <= 31
            async with _client(one, "requests") as client:
                await client.model()
                await client.model()
                with pytest.raises(ResourceExhausted, match="2 requests a minute") as refused:
                    await client.model()
                assert 20 < refused.value.retry_after_s <= 31
            metadata = (("authorization", f"Bearer {key_of('requests')}"),)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{one.port}") as channel:
                call = info_pb2_grpc.InfoStub(channel).GetModel(info_pb2.GetModelRequest(), metadata=metadata)
                assert await _code_of(call) == grpc.StatusCode.RESOURCE_EXHAUSTED
                assert int(dict(await call.trailing_metadata())[RETRY_AFTER_KEY]) > 20_000
            assert one.is_empty()

    run(test)


def test_keys_are_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = write_keys(tmp_path / "keys.json", {"old": {}, "both": {"requests_per_minute": 1}})

    async def test() -> None:
        async with (
            world(Sizes(keys=keys)) as one,
            _client(one, "old") as old,
            _client(one, "both") as both,
            _client(one, "new") as new,
            old.session(GREEDY, content="a") as session,
        ):
            await both.model()
            with pytest.raises(Unauthenticated):
                await new.model()
            await eventually(lambda: one.orchestrator.stats().sessions_open == 1)
            keys.write_text("{")
            one.tenants.reload()
            assert "stay as they were" in caplog.text
            with pytest.raises(ResourceExhausted):
                await both.model()
            write_keys(keys, {"new": {}, "both": {}})
            one.tenants.reload()
            await new.model()
            await both.model()
            with pytest.raises(Unauthenticated):
                await old.model()
            await session.finish()  # what was open goes on
            assert (await session.result()).text == one.expected("a", 4)

    run(test)
