"""Requests that are no messages, or never come: the caller's mistake, which gRPC's library would make the server's."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from s2l_jax.core.errors import DeadlineExceeded, InvalidArgument, S2LError
from serving.grpc.guard import abort


class _Unreadable:
    """Stands for a request that could not be decoded."""


def careful(handler: grpc.RpcMethodHandler, timeout_s: float) -> grpc.RpcMethodHandler:
    """A handler that answers bytes which are no message of its kind with INVALID_ARGUMENT.

    A method of one request waits for it no longer than `timeout_s`, and is answered also if none comes: it is served as
    a stream of which the first message counts.
    """
    behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    if not handler.request_streaming:
        behaviour = _of_stream(behaviour, timeout_s)
    make = grpc.stream_stream_rpc_method_handler if handler.response_streaming else grpc.stream_unary_rpc_method_handler
    careful_one: grpc.RpcMethodHandler = make(
        _with_checks(behaviour), _careful_deserializer(handler.request_deserializer), handler.response_serializer
    )
    return careful_one


def _careful_deserializer(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return _Unreadable()

    return read


def _of_stream(behaviour: Callable[..., Any], timeout_s: float) -> Callable[..., Any]:
    """The same for a stream of one request."""

    async def run(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> Any:
        try:
            async with asyncio.timeout(timeout_s):
                request = await anext(requests)
        except StopAsyncIteration:
            raise InvalidArgument("the call has no request") from None
        except TimeoutError:
            raise DeadlineExceeded(f"the call's request did not come within {timeout_s:g} s") from None
        return await behaviour(request, context)

    return run


def _with_checks(behaviour: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(behaviour):  # the library looks at this, too

        async def stream(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            try:
                async for response in behaviour(_readable(requests), context):
                    yield response
            except S2LError as error:
                await abort(context, error)

        return stream

    async def run(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> Any:
        try:
            return await behaviour(_readable(requests), context)
        except S2LError as error:
            await abort(context, error)

    return run


async def _readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Raises InvalidArgument in place of what is unreadable."""
    async for request in requests:
        if isinstance(request, _Unreadable):
            raise InvalidArgument("the request is no message of this method: is the client's .proto the server's?")
        yield request
