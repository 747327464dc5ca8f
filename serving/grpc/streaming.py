"""`s2l.v1.StreamingContext`: one session per stream."""

from collections.abc import AsyncIterator
from concurrent.futures import Executor

import grpc.aio

from serving.grpc.door import account_of
from serving.grpc.guard import guarded
from serving.protos.s2l.v1 import streaming_pb2 as pb
from serving.protos.s2l.v1 import streaming_pb2_grpc
from serving.session_stream import SessionStream
from serving.tenants.tenants import Tenants
from serving.writer import Writer


class StreamingContextServicer(streaming_pb2_grpc.StreamingContextServicer):
    """Serves streams.

    Args:
      tenants: whose sessions they are.
      pool: runs what tokenizes, so that the event loop never waits for it.
      default_max_tokens: output tokens of a session that names no limit.
      open_timeout_s: time for a stream's first event to come.
      send_timeout_s: time for a client to take a message.
    """

    def __init__(
        self,
        tenants: Tenants,
        pool: Executor,
        default_max_tokens: int,
        *,
        open_timeout_s: float,
        send_timeout_s: float,
    ) -> None:
        self._tenants = tenants
        self._pool = pool
        self._default_max_tokens = default_max_tokens
        self._open_timeout_s = open_timeout_s
        self._send_timeout_s = send_timeout_s

    @guarded
    async def Session(  # noqa: N802 - the wire's name
        self, requests: AsyncIterator[pb.SessionRequest], context: grpc.aio.ServicerContext
    ) -> None:
        """Runs one session from `open` to `Done` or an error status."""
        account = account_of(self._tenants, context.invocation_metadata())
        writer = Writer(context.write, self._send_timeout_s)
        stream = SessionStream(account, self._pool, self._default_max_tokens, writer, self._open_timeout_s)
        try:
            await stream.run(requests)
        finally:
            writer.close()
