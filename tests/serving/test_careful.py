"""Calls without a request, and bytes that are none."""

from typing import Any

import grpc
import grpc.aio
import pytest

from serving.protos.s2l.v1 import info_pb2, info_pb2_grpc
from tests.serving.harness import Sizes, eventually, run, world

METHODS = (
    "/s2l.v1.StreamingContext/Session",
    "/s2l.v1.Info/GetModel",
    "/jetstream_proto.Orchestrator/Decode",
    "/jetstream_proto.Orchestrator/HealthCheck",
    "/v1/models",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
RUBBISH = b"\xff\xff\xff"


async def _status(channel: grpc.aio.Channel, method: str, *messages: bytes, close: bool = True) -> tuple[str, str]:
    call: Any = channel.stream_stream(method)(timeout=10)
    for message in messages:
        await call.write(message)
    if close:
        await call.done_writing()
    return (await call.code()).name, await call.details()


@pytest.mark.parametrize("method", METHODS)
def test_rubbish_is_the_callers_mistake(method: str, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with world() as one, grpc.aio.insecure_channel(f"127.0.0.1:{one.port}") as channel:
            status, details = await _status(channel, method, RUBBISH)
            assert status == "INVALID_ARGUMENT" and "no message of this method" in details
            assert not caplog.records
            await eventually(one.is_empty)

    run(test)


def test_a_call_without_a_request_is_answered() -> None:
    async def test() -> None:
        async with (
            world(Sizes(open_timeout_s=0.2)) as one,
            grpc.aio.insecure_channel(f"127.0.0.1:{one.port}") as channel,
        ):
            for method in METHODS[1:5]:
                assert await _status(channel, method) == ("INVALID_ARGUMENT", "the call has no request")
                status, details = await _status(channel, method, close=False)
                assert status == "DEADLINE_EXCEEDED" and "within 0.2 s" in details
            assert (await info_pb2_grpc.InfoStub(channel).GetModel(info_pb2.GetModelRequest())).name == "fake"

    run(test)
