"""A replica's side: applies what a router asks to the orchestrator of this process."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.core.outcome import Ack
from s2l_jax.orchestrator.events import DoneEvent, FailedEvent
from s2l_jax.orchestrator.orchestrator import Orchestrator
from serving.outbox import Outbox
from serving.protos.s2l.v1 import streaming_pb2 as pb
from serving.session_responses import accepted_of, response_of
from serving.wire import content_from_wire, params_from_wire


class Worker:
    """Serves routers in one event loop, whatever carries their requests.

    A router is trusted: it says whose a session is.

    Args:
      orchestrator: owns the sessions.
      pool: runs what takes the orchestrator's locks.
      default_max_tokens: output tokens of a session that names no limit.
    """

    def __init__(self, orchestrator: Orchestrator, pool: Executor, default_max_tokens: int) -> None:
        self._orchestrator = orchestrator
        self._pool = pool
        self._default_max_tokens = default_max_tokens

    async def open(self, request: pb.SessionRequest, tenant: str) -> AsyncGenerator[pb.SessionResponse]:
        """Opens a session and yields all that becomes of it; see `Replicas.open`.

        Raises:
          S2LError: it is refused, or fails.
        """
        wire, outbox = request.open, Outbox(merge_tokens=False)  # the router does that for its clients
        params = params_from_wire(wire.params, default_max_tokens=self._default_max_tokens)

        def opening() -> Ack:
            return self._orchestrator.open(
                sink=outbox.sink,
                params=params,
                content=content_from_wire(wire.content),
                session_id=wire.session_id,
                final=wire.final,
                tenant=tenant,
                priority=wire.priority,
                first_token_within_s=wire.first_token_within_s or None,
            )

        future = self._pool.submit(opening)
        try:
            yield accepted_of(await asyncio.wrap_future(future))
            while True:
                event = await outbox.get()
                if isinstance(event, FailedEvent):
                    raise event.error
                yield response_of(event)
                if isinstance(event, DoneEvent):
                    return
        finally:
            if not outbox.is_ended and not future.cancel():
                # Also one that a thread of the pool is just opening.
                future.add_done_callback(lambda _: self._orchestrator.cancel(wire.session_id))

    async def send(self, session_id: str, request: pb.SessionRequest) -> pb.Accepted:
        """Applies an event; see `Replicas.send`."""
        apply: Callable[[], Ack]
        match request.WhichOneof("event"):
            case "update":
                update = request.update

                def apply() -> Ack:
                    content = content_from_wire(update.content)
                    return self._orchestrator.update(
                        session_id, content, keep_tokens=update.keep_tokens, final=update.final
                    )

            case "cancel":
                self._orchestrator.cancel(session_id)
                return pb.Accepted(session_id=session_id)
            case kind:
                raise InvalidArgument(f"routers send updates, not {kind or 'nothing'}")
        ack = await asyncio.get_running_loop().run_in_executor(self._pool, apply)
        return accepted_of(ack).accepted
