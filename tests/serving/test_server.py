"""The server around its services: health, reflection, limits, and the outbox between engine and stream."""

import asyncio

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from s2l_jax.core.errors import InvalidArgument, ResourceExhausted, S2LError, Unavailable
from s2l_jax.core.outcome import SessionStats
from s2l_jax.orchestrator.events import DoneEvent, ProgressEvent, TokenEvent
from serving.grpc.outbox import Outbox
from serving.grpc.server import SERVICE_NAMES, GrpcConfig, GrpcServer
from serving.status import Cancelled, from_status, to_status
from tests.serving.harness import eventually, run, world


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


def _token(number: int) -> TokenEvent:
    return TokenEvent((number,), f"{number} ", (-0.5,), (((number, -0.5),),))


def test_outbox_keeps_order_and_bounds_what_waits() -> None:
    async def test() -> None:
        outbox = Outbox()
        for i in range(1000):
            outbox.sink(ProgressEvent(i, 1000))
        for i in range(1000):
            outbox.sink(_token(i))
        stats = SessionStats(1, 1000, 1, 0, 0, 0, 0, 0, 0.1, 0.1)
        outbox.sink(DoneEvent("length", stats))
        assert outbox.is_ended
        events = []
        while not events or not isinstance(events[-1], DoneEvent):
            events.append(await outbox.get())
        assert len(events) < 40
        assert events[0] == ProgressEvent(999, 1000)
        tokens = [event for event in events if isinstance(event, TokenEvent)]
        assert [i for event in tokens for i in event.ids] == list(range(1000))
        assert "".join(event.text for event in tokens) == "".join(f"{i} " for i in range(1000))
        assert sum(len(event.logprobs) for event in tokens) == sum(len(event.top) for event in tokens) == 1000

    run(test)


def test_outbox_that_must_not_merge_does_not() -> None:
    async def test() -> None:
        outbox = Outbox(merge_tokens=False)
        for i in range(100):
            outbox.sink(_token(i))
        assert [await outbox.get() for _ in range(100)] == [_token(i) for i in range(100)]

    run(test)


def test_outbox_wakes_its_reader_from_other_threads() -> None:
    async def test() -> None:
        outbox = Outbox()
        received: list[object] = []

        async def read() -> None:
            while len(received) < 500:
                received.append(await outbox.get())

        reader = asyncio.create_task(read())

        def produce() -> None:
            for i in range(500):
                outbox.sink(_token(i))

        producing = asyncio.to_thread(produce)
        await asyncio.wait({asyncio.ensure_future(producing)})
        total = sum(len(event.ids) for event in received if isinstance(event, TokenEvent))
        await eventually(lambda: sum(len(e.ids) for e in received if isinstance(e, TokenEvent)) == 500)
        assert total <= 500
        reader.cancel()

    run(test)
