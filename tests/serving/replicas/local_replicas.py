"""Replicas in this process, over fake engines, which can be killed at any moment."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from s2l_jax.core.errors import Unavailable
from s2l_jax.core.scheduler import Scheduler
from s2l_jax.models.tokenizer import ByteTokenizer
from s2l_jax.orchestrator.config import OrchestratorConfig
from s2l_jax.orchestrator.orchestrator import Orchestrator
from serving.protos.s2l.v1 import streaming_pb2 as pb
from serving.replicas.protocol import ReplicaLost
from serving.replicas.router import Router
from serving.replicas.worker import Worker
from tests.fakes import FakeEngine
from tests.serving.harness import EOS, MAX_MODEL_LEN, Sizes, _build, eventually


@dataclass
class Replica:
    """One of them."""

    engine: FakeEngine
    scheduler: Scheduler
    orchestrator: Orchestrator
    worker: Worker
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    opened: list[pb.SessionRequest] = field(default_factory=list)


class LocalReplicas:
    """Takes the first replica that is there, unless a test asks for another, and remembers what it was asked."""

    def __init__(self) -> None:
        self.replicas: dict[int, Replica] = {}
        self.choices: list[tuple[int, list[int]]] = []
        self.over: list[str] = []
        self.pool = ThreadPoolExecutor(4)

    def add(self, sizes: Sizes | None = None) -> int:
        engine, scheduler, orchestrator, _, _ = _build(sizes or Sizes())
        orchestrator.start()
        name = len(self.replicas) + 1
        self.replicas[name] = Replica(engine, scheduler, orchestrator, Worker(orchestrator, self.pool, 8))
        return name

    def kill(self, replica: int) -> None:
        self.replicas[replica].lost.set()

    # Replicas

    def present(self) -> Collection[int]:
        return [name for name, replica in self.replicas.items() if not replica.lost.is_set()]

    async def choose(self, session_id: str, tokens: Sequence[int], avoid: Collection[int], tenant: str) -> int:
        for name in self.present():
            if name not in avoid:
                self.choices.append((name, list(tokens)))
                return name
        raise Unavailable("no replica is left")

    def ended(self, session_id: str) -> None:
        self.over.append(session_id)

    async def open(self, replica: int, request: pb.SessionRequest, tenant: str) -> AsyncGenerator[pb.SessionResponse]:
        one = self.replicas[replica]
        one.opened.append(request)
        async with contextlib.aclosing(one.worker.open(request, tenant)) as answers:
            while True:
                answer = await self._unless_lost(one, anext(answers, None))
                if answer is None:
                    return
                yield answer

    async def send(self, replica: int, session_id: str, request: pb.SessionRequest) -> pb.Accepted:
        one = self.replicas[replica]
        return await self._unless_lost(one, one.worker.send(session_id, request))

    async def _unless_lost[T](self, one: Replica, call: "AsyncIterator[T] | object") -> T:
        task = asyncio.ensure_future(call)  # type: ignore[arg-type]
        lost = asyncio.ensure_future(one.lost.wait())
        try:
            await asyncio.wait({task, lost}, return_when=asyncio.FIRST_COMPLETED)
            if one.lost.is_set():
                raise ReplicaLost("killed")
            return task.result()
        finally:
            for each in (task, lost):
                each.cancel()
            await asyncio.gather(task, lost, return_exceptions=True)


@contextlib.asynccontextmanager
async def routed(count: int, sizes: Sizes | None = None) -> AsyncIterator[tuple[Router, LocalReplicas]]:
    """A router over some replicas; in the end nothing may be left of any session."""
    replicas = LocalReplicas()
    for _ in range(count):
        replicas.add(sizes)
    limits = OrchestratorConfig(max_sessions=16, default_max_tokens=8, limit_max_tokens=MAX_MODEL_LEN)
    router = Router(replicas, asyncio.get_running_loop(), ByteTokenizer(), (EOS,), limits)
    try:
        yield router, replicas
        for replica in replicas.replicas.values():
            await eventually(lambda one=replica: one.orchestrator.stats().sessions_open == 0)  # type: ignore[misc]
            assert replica.orchestrator.stats().scheduler.held_blocks == 0
        opened = sum(len(replica.opened) for replica in replicas.replicas.values())
        await eventually(lambda: len(replicas.over) >= opened)
        assert len(set(replicas.over)) == len(replicas.over) == opened, "each is said to be over once"
    finally:
        await asyncio.to_thread(router.close)
        for replica in replicas.replicas.values():
            await asyncio.to_thread(replica.orchestrator.close)
        replicas.pool.shutdown()
