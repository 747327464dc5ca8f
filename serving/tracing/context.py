"""Carries a client's trace from its request to the session that the request opens."""

import contextvars
import functools
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
from starlette.types import ASGIApp, Receive, Scope, Send

type TraceParent = tuple[str, str]
"""`traceparent` and `tracestate`, as W3C's Trace Context has them; the second may be empty."""

TRACE_PARENT: contextvars.ContextVar[TraceParent | None] = contextvars.ContextVar("trace_parent", default=None)
"""Of the request that is being served, None if it has none."""

_PARENT, _STATE = "traceparent", "tracestate"


class ContextPool(ThreadPoolExecutor):
    """Threads that see the context variables of whoever hands them work."""

    def submit[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Runs a function in a thread, in a copy of the caller's context."""
        return super().submit(contextvars.copy_context().run, functools.partial(fn, *args, **kwargs))


class TraceContext:
    """ASGI middleware: reads the headers of a request or a WebSocket.

    Args:
      app: what it surrounds.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        headers = {
            name: value.decode("latin-1")
            for name, value in scope.get("headers", ())
            if name in (b"traceparent", b"tracestate")
        }
        if b"traceparent" in headers:
            TRACE_PARENT.set((headers[b"traceparent"], headers.get(b"tracestate", "")))
        await self._app(scope, receive, send)


class TraceInterceptor(grpc.aio.ServerInterceptor):
    """Reads the metadata of a call."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """Notes what there is; the handler runs in the same context."""
        metadata: dict[str, Any] = dict(handler_call_details.invocation_metadata or ())
        if isinstance(metadata.get(_PARENT), str):
            TRACE_PARENT.set((metadata[_PARENT], str(metadata.get(_STATE, ""))))
        return await continuation(handler_call_details)
