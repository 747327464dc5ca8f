"""The private gRPC service of one engine, for an orchestrator in another process."""

import functools
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from s2l_jax.core.errors import InvalidArgument, S2LError
from serving.protos.s2l.v1 import engine_pb2 as pb
from serving.protos.s2l.v1 import engine_pb2_grpc
from serving.remote.codec import offer_message, offer_of
from serving.remote.engine import CHANNEL_OPTIONS, PAGES_S
from serving.remote.host import EngineHost
from serving.remote.page_parts import join, parts_of
from serving.status import to_status
from serving.tls import ServerTls

_log = logging.getLogger(__name__)
_THREADS = 16
_LOOK_S = 0.2
_STOP_S = 1.0
_OPTIONS = (*CHANNEL_OPTIONS, ("grpc.http2.min_ping_interval_without_data_ms", 1000), ("grpc.so_reuseport", 0))


def _with_status[**P, T](call: Callable[P, T]) -> Callable[P, T]:
    """Ends a call with the status of whatever it raises; a caller sees no traceback."""

    @functools.wraps(call)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        context: Any = args[2]
        try:
            return call(*args, **kwargs)
        except S2LError as error:
            context.abort(to_status(error)[0], str(error))
        except grpc.RpcError:  # the caller is gone: there is nobody to tell
            _log.info("a call broke off", exc_info=True)
            context.abort(grpc.StatusCode.CANCELLED, "the call broke off")
        except Exception as error:  # noqa: BLE001 - as above, for what nobody foresaw
            _log.exception("a call failed")
            context.abort(grpc.StatusCode.INTERNAL, f"{error!r:.200}")
        raise AssertionError("abort raises")

    return guarded


class EngineServicer(engine_pb2_grpc.EngineServicer):
    """See `engine.proto`.

    Args:
      host: runs the engine.
      description: what it is.
    """

    def __init__(self, host: EngineHost, description: pb.EngineDescription) -> None:
        self._host = host
        self._description = description

    def Describe(self, request: pb.DescribeRequest, context: grpc.ServicerContext) -> pb.EngineDescription:  # noqa: N802
        """What the engine is."""
        return self._description

    def Run(self, request_iterator: Iterator[pb.EngineCommand], context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        """Serves an owner."""
        try:
            yield from self._host.run(request_iterator)
        except S2LError as error:
            context.abort(to_status(error)[0], str(error))

    @_with_status
    def PutPages(self, request_iterator: Iterator[pb.PagePart], context: grpc.ServicerContext) -> pb.PutPagesReply:  # noqa: N802
        """Takes pages in."""
        self._host.put_pages(*join(request_iterator))
        return pb.PutPagesReply()

    @_with_status
    def GetPages(self, request: pb.GetPagesRequest, context: grpc.ServicerContext) -> Iterator[pb.PagePart]:  # noqa: N802
        """Hands pages out."""
        return parts_of(self._host.take_pages(request.owner, request.key, PAGES_S), request.owner, request.key)

    @_with_status
    def OfferPages(self, request: pb.GetPagesRequest, context: grpc.ServicerContext) -> pb.PageOffer:  # noqa: N802
        """Lets another process pull pages."""
        return offer_message(self._host.offer_pages(request.owner, request.key, PAGES_S))

    @_with_status
    def PullPages(self, request: pb.PullPagesRequest, context: grpc.ServicerContext) -> pb.PutPagesReply:  # noqa: N802
        """Pulls pages from another process."""
        self._host.pull_pages(request.owner, request.key, offer_of(request.offer))
        return pb.PutPagesReply()


class EngineServer:
    """Listens for one orchestrator."""

    def __init__(
        self, host: EngineHost, description: pb.EngineDescription, address: str, tls: ServerTls | None = None
    ) -> None:
        """Binds and serves.

        Args:
          host: runs the engine; ended by `stop`.
          description: what it is.
          address: `HOST:PORT`; port 0 takes a free one.
          tls: what it shows, and whom it lets in; None is without TLS.

        Raises:
          InvalidArgument: the address cannot be bound.
        """
        self._host = host
        self._server = grpc.server(ThreadPoolExecutor(_THREADS, thread_name_prefix="s2l-rpc"), options=_OPTIONS)
        engine_pb2_grpc.add_EngineServicer_to_server(EngineServicer(host, description), self._server)
        try:
            if tls is None:
                self.port: int = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, tls.grpc_credentials())
        except RuntimeError as error:
            raise InvalidArgument(f"cannot listen on {address}: choose another --port (0 takes a free one)") from error
        self._server.start()

    def stop(self) -> None:
        """Ends the engine, with that its owner's stream, and then all calls."""
        self._host.close()
        self._server.stop(_STOP_S).wait()


def serve_until_signal(host: EngineHost, server: EngineServer, on_ready: Callable[[int], None]) -> None:
    """Serves until SIGTERM or Ctrl-C. If the engine hangs, the process ends at once: nothing else gets rid of it.

    Args:
      host: runs the engine.
      server: of the host.
      on_ready: given the port, once signals are heeded.
    """
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        # Not an event: a handler that sets one waits for ever if it comes while the same thread begins to wait for it.
        signal.signal(number, lambda number, _: received.append(number))
    on_ready(server.port)
    while not received and not host.ended.wait(_LOOK_S):
        pass
    if host.failure is not None:
        print(f"Error: {host.failure}: this process ends, start it again", file=sys.stderr, flush=True)
        logging.shutdown()
        os._exit(1)
    server.stop()
