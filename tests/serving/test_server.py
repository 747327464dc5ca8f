"""The server around its services: health, reflection, limits."""

import asyncio

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from s2l_jax.core.errors import InvalidArgument, ResourceExhausted, S2LError, Unavailable
from serving.grpc.server import SERVICE_NAMES, GrpcConfig, GrpcServer
from serving.status import Cancelled, from_status, to_status
from tests.serving.harness import run, world


def test_health_follows_the_servers_life() -> None:
    async def test() -> None:
        async with world() as one, grpc.aio.insecure_channel(f"127.0.0.1:{one.port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for name in ("", *SERVICE_NAMES):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=""), timeout=5)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            stopping = asyncio.create_task(one.server.stop(1.0))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()
            await stopping

    run(test)


def test_reflection_lists_and_describes_all_services() -> None:
    async def test() -> None:
        async with world() as one, grpc.aio.insecure_channel(f"127.0.0.1:{one.port}") as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            ask = reflection_pb2.ServerReflectionRequest
            requests = [ask(list_services="")] + [ask(file_containing_symbol=name) for name in SERVICE_NAMES]
            answers = [answer async for answer in stub.ServerReflectionInfo(iter(requests), timeout=5)]
            listed = {service.name for service in answers[0].list_services_response.service}
            assert listed >= {*SERVICE_NAMES, "grpc.health.v1.Health"}
            assert all(answer.file_descriptor_response.file_descriptor_proto for answer in answers[1:])

    run(test)


def test_a_port_in_use_is_a_friendly_error() -> None:
    async def test() -> None:
        async with world() as one:
            second = GrpcServer(one.orchestrator, one.server._model, GrpcConfig(port=one.port))
            with pytest.raises(InvalidArgument, match="--port"):
                await second.start()

    run(test)


@pytest.mark.parametrize("error", [Unavailable("u", 0.0004), ResourceExhausted("r", 1.2345), InvalidArgument("i")])
def test_errors_survive_the_wire(error: S2LError) -> None:
    code, details, metadata = to_status(error)
    back = from_status(code, details, metadata)
    assert type(back) is type(error) and str(back) == str(error)
    if metadata:
        assert all(value.isdigit() and int(value) >= 1 for _, value in metadata)
        assert getattr(back, "retry_after_s", 0) == pytest.approx(getattr(error, "retry_after_s", 0), abs=1e-3)


def test_every_error_has_a_status() -> None:
    classes = S2LError.__subclasses__()
    assert len(classes) >= 9
    assert {getattr(grpc.StatusCode, cls.status) for cls in classes}


def test_unknown_statuses_keep_their_name() -> None:
    error = from_status(grpc.StatusCode.UNIMPLEMENTED, "no such method", None)
    assert error.status == "UNIMPLEMENTED" and str(error) == "no such method"
    assert isinstance(from_status(grpc.StatusCode.CANCELLED, None, None), Cancelled)
