"""Sends a stream's messages to a client that may not take them."""

import asyncio

import grpc.aio
from google.protobuf.message import Message

from s2l_jax.core.errors import DeadlineExceeded


class Writer:
    """Waits for a client that reads slowly, but not for ever: gRPC itself would.

    Args:
      context: of the call.
      timeout_s: how long the client may take for one message.
    """

    def __init__(self, context: grpc.aio.ServicerContext, timeout_s: float) -> None:
        self._context = context
        self._timeout_s = timeout_s

    async def write(self, message: Message) -> None:
        """Sends a message.

        Raises:
          DeadlineExceeded: the client did not take it in time.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._context.write(message)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the client took nothing of the output for {self._timeout_s:g} s, so the stream was ended: read faster"
            ) from None
