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


class StreamingContextServicer(streaming_pb2_grpc.StreamingContextServicer):
    """Serves streams.

    Args:
      tenants: whose sessions they are.
      pool: runs what tokenizes, so that the event loop never waits for it.
      default_max_tokens: output tokens of a session that names no limit.
    """

    def __init__(self, tenants: Tenants, pool: Executor, default_max_tokens: int) -> None:
        self._tenants = tenants
        self._pool = pool
        self._default_max_tokens = default_max_tokens

    @guarded
    async def Session(  # noqa: N802 - the wire's name
        self, requests: AsyncIterator[pb.SessionRequest], context: grpc.aio.ServicerContext
    ) -> None:
        """Runs one session from `open` to `Done` or an error status."""
        account = account_of(self._tenants, context.invocation_metadata())
        await SessionStream(account, self._pool, self._default_max_tokens, context).run(requests)
