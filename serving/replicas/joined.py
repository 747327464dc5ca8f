"""A server as one of many: it joins a Dynamo namespace, and leaves it before it stops."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

from s2l_jax.core.errors import Unavailable
from s2l_jax.orchestrator.orchestrator import Orchestrator
from serving.client.types import ModelInfo
from serving.replicas.dynamo import connect, leave, serve_worker
from serving.replicas.worker import Worker

_log = logging.getLogger(__name__)
_THREADS = 2


class Joined:
    """A server's part in a namespace. Belongs to the event loop it is started in."""

    def __init__(self, runtime: Any, namespace: str, pool: ThreadPoolExecutor, serving: asyncio.Task[None]) -> None:
        self._runtime = runtime
        self._namespace = namespace
        self._pool = pool
        self._serving = serving
        serving.add_done_callback(_say)

    @classmethod
    async def start(
        cls, namespace: str, discovery: str, orchestrator: Orchestrator, model: ModelInfo, block_size: int
    ) -> Self:
        """Joins; from now on routers may give sessions to this server.

        Args:
          namespace: what to join.
          discovery: how routers find it; see `connect`.
          orchestrator: owns the sessions.
          model: what is served.
          block_size: tokens of a KV block.

        Raises:
          InvalidArgument: Dynamo's runtime is not there, or its discovery cannot be reached.
        """
        runtime = connect(discovery)
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="s2l-worker")
        worker = Worker(orchestrator, pool, model.default_max_tokens)
        serving = asyncio.create_task(serve_worker(runtime, namespace, worker, model, block_size), name="s2l-dynamo")
        return cls(runtime, namespace, pool, serving)

    async def leave(self) -> None:
        """Routers give no sessions to this server any more; those it has go on."""
        await leave(self._runtime, self._namespace)

    async def close(self) -> None:
        """Ends what is left of the connections."""
        self._serving.remove_done_callback(_say)
        self._serving.cancel()
        self._runtime.shutdown()
        await asyncio.gather(self._serving, return_exceptions=True)
        self._pool.shutdown(wait=False, cancel_futures=True)


def _say(serving: asyncio.Task[None]) -> None:
    error = None if serving.cancelled() else serving.exception()
    _log.error("routers do not reach this server any more: %s", error or Unavailable("Dynamo's runtime has shut down"))
