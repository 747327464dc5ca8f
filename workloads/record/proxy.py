"""Passes every call of every service through to a server, and notes what streaming sessions say.

To gRPC a call of any kind is two streams of messages, so one handler forwards all of them as bytes; only the sessions'
messages are looked into. Deadlines, metadata, statuses and cancellation pass through as well.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Any

import grpc
import grpc.aio

from s2l_jax.core.errors import InvalidArgument, Unavailable
from serving.client.channel import CHANNEL_OPTIONS, address_of
from serving.protos.s2l.v1 import streaming_pb2 as pb
from workloads.record.recorder import Recorder
from workloads.record.tape import Tape

SESSION_METHOD = "/s2l.v1.StreamingContext/Session"
_CONNECT_TIMEOUT_S = 10.0
_SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # the server behind has its own limit
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.so_reuseport", 0),
)


class RecordingProxy(grpc.GenericRpcHandler):
    """A server that is another one to its clients. Belongs to the event loop it is started in."""

    def __init__(self, target: str, recorder: Recorder) -> None:
        """Connects to nothing yet.

        Args:
          target: `grpc://HOST:PORT` of the server.
          recorder: gets the sessions.

        Raises:
          InvalidArgument: the target is no such address.
        """
        self._target = target
        self._address = address_of(target)
        self._recorder = recorder

    async def start(self, listen: str) -> int:
        """Connects, binds `HOST:PORT`, and serves; returns the port.

        Raises:
          Unavailable: nobody answers at the target.
          InvalidArgument: the address cannot be bound.
        """
        self._channel = grpc.aio.insecure_channel(self._address, options=CHANNEL_OPTIONS)
        try:
            await asyncio.wait_for(self._channel.channel_ready(), _CONNECT_TIMEOUT_S)
        except TimeoutError:
            await self._channel.close()
            raise Unavailable(f"nobody answers at {self._target}; start a server with `s2l serve`") from None
        self._server = grpc.aio.server(options=_SERVER_OPTIONS)
        self._server.add_generic_rpc_handlers((self,))
        try:
            port = self._server.add_insecure_port(listen)
        except RuntimeError as error:
            await self._channel.close()
            raise InvalidArgument(
                f"cannot listen on {listen}: it is in use or not an address of this machine; choose another --listen"
            ) from error
        await self._server.start()
        return port

    async def stop(self) -> None:
        """Cancels what is under way."""
        await self._server.stop(None)
        await self._channel.close()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """The handler of any method."""
        return grpc.stream_stream_rpc_method_handler(partial(self._forward, handler_call_details.method))

    async def _forward(self, method: str, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        tape = self._recorder.begin() if method == SESSION_METHOD else None
        metadata = tuple(_passed_on(context.invocation_metadata() or ()))
        call = self._channel.stream_stream(method)(timeout=context.time_remaining(), metadata=metadata)
        sender = asyncio.create_task(self._send(requests, call, tape))
        try:
            async for response in call:
                if tape is not None:
                    tape.received(pb.SessionResponse.FromString(response))
                await context.write(response)
            context.set_trailing_metadata(tuple(await call.trailing_metadata()))
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
        finally:
            sender.cancel()
            call.cancel()  # does nothing to a call that has ended
            if tape is not None:
                self._recorder.end(tape)

    async def _send(self, requests: AsyncIterator[bytes], call: Any, tape: Tape | None) -> None:
        # What goes wrong in sending ends the call, and is seen where responses are read.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            async for request in requests:
                if tape is not None:
                    tape.sent(pb.SessionRequest.FromString(request), self._recorder.now_s)
                await call.write(request)
            await call.done_writing()


def _passed_on(metadata: Iterable[tuple[str, str | bytes]]) -> Iterable[tuple[str, str | bytes]]:
    """Metadata of the caller, without what gRPC adds to every call by itself."""
    return ((key, value) for key, value in metadata if key != "user-agent" and not key.startswith("grpc-"))
