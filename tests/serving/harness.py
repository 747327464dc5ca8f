"""A server on an ephemeral port over a fake engine: in the test's own event loop, or in a thread for blocking tests."""

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.plan import StepPlan
from s2l_jax.core.scheduler import Scheduler
from s2l_jax.models.tokenizer import ByteTokenizer
from s2l_jax.orchestrator.config import OrchestratorConfig
from s2l_jax.orchestrator.member import EngineUnit
from s2l_jax.orchestrator.orchestrator import Orchestrator
from serving.client.prompt import PromptPieces
from serving.client.types import ModelInfo
from serving.grpc.jetstream import JetStreamConfig
from serving.grpc.server import GrpcConfig, GrpcServer
from serving.tenants.tenants import Tenants
from serving.tls import ServerTls
from tests.fakes import FakeEngine

BLOCK_SIZE = 4
MAX_MODEL_LEN = 256
TIMEOUT_S = 20.0
BOS = ByteTokenizer.bos_token_id
EOS = 257
LETTERS = tuple(range(ord("a"), ord("z") + 1))


@dataclass(frozen=True)
class World:
    """A running server and what is behind it."""

    port: int
    server: GrpcServer
    orchestrator: Orchestrator
    scheduler: Scheduler
    engine: FakeEngine
    tenants: Tenants

    @property
    def target(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    def expected(self, prompt: str, max_tokens: int) -> str:
        """What a fresh engine answers."""
        return bytes(self.engine.reference_output(list(prompt.encode()), max_tokens)).decode()

    def is_empty(self) -> bool:
        """True if no session is left and all blocks are back."""
        stats = self.orchestrator.stats()
        with self.orchestrator._registry.lock:  # the engine's thread may be planning
            self.scheduler.check_integrity()
        return stats.sessions_open == 0 and stats.scheduler.held_blocks == 0


@dataclass(frozen=True)
class Sizes:
    """How large a world is and what its engine says."""

    max_sessions: int = 8
    num_blocks: int = 512
    host_blocks: int = 0
    alphabet: Sequence[int] = LETTERS
    hook: Callable[[StepPlan], None] | None = None
    max_waiting: int = 256
    idle_timeout_s: float = 60.0
    retry_after_s: float = 1.0
    progress_interval_s: float = 0.0
    max_message_bytes: int = 1 << 20
    max_num_samples: int = 4
    temperature: float = 0.0
    model_len: int = MAX_MODEL_LEN
    keys: Path | None = None
    tls: ServerTls | None = None
    open_timeout_s: float = 20.0
    send_timeout_s: float = 60.0


def _build(sizes: Sizes) -> tuple[FakeEngine, Scheduler, Orchestrator, Tenants, GrpcServer]:
    engine = FakeEngine(
        sizes.num_blocks,
        BLOCK_SIZE,
        sizes.max_sessions,
        host_blocks=sizes.host_blocks,
        vocab_size=258,
        alphabet=sizes.alphabet,
        hook=sizes.hook,
    )
    scheduler = Scheduler(
        SchedulerConfig(
            num_blocks=sizes.num_blocks,
            block_size=BLOCK_SIZE,
            host_blocks=sizes.host_blocks,
            preemption="swap",
            token_budget=64,
            max_batch=64,
            max_sessions=sizes.max_sessions,
            max_model_len=sizes.model_len,
            eos_token_ids=frozenset({EOS}),
        )
    )
    limits = OrchestratorConfig(
        max_sessions=sizes.max_sessions,
        max_waiting=sizes.max_waiting,
        default_max_tokens=8,
        limit_max_tokens=sizes.model_len,
        idle_timeout_s=sizes.idle_timeout_s,
        retry_after_s=sizes.retry_after_s,
        progress_interval_s=sizes.progress_interval_s,
    )
    orchestrator = Orchestrator([EngineUnit(engine, scheduler)], ByteTokenizer(), limits)
    model = ModelInfo("fake", sizes.model_len, 258, BOS, (EOS,), 8, PromptPieces("<", "|", ">", False), "0", "fcfs")
    config = GrpcConfig(
        port=0,
        max_message_bytes=sizes.max_message_bytes,
        jetstream=JetStreamConfig(sizes.temperature, sizes.max_num_samples),
        tls=sizes.tls,
        open_timeout_s=sizes.open_timeout_s,
        send_timeout_s=sizes.send_timeout_s,
    )
    tenants = Tenants(orchestrator, sizes.keys)
    return engine, scheduler, orchestrator, tenants, GrpcServer(orchestrator, model, config, tenants)


@contextlib.asynccontextmanager
async def world(sizes: Sizes | None = None, *, drain_timeout_s: float = 0.0) -> AsyncIterator[World]:
    """A server in this event loop."""
    engine, scheduler, orchestrator, tenants, server = _build(sizes or Sizes())
    orchestrator.start()
    try:
        port = await server.start()
        yield World(port, server, orchestrator, scheduler, engine, tenants)
    finally:
        await server.stop(drain_timeout_s)


@contextlib.contextmanager
def threaded_world(sizes: Sizes | None = None) -> Iterator[World]:
    """A server in an event loop of its own, for blocking clients."""
    started: list[World] = []
    is_ready = threading.Event()
    loop = asyncio.new_event_loop()
    is_over = asyncio.Event()

    async def serve() -> None:
        async with world(sizes) as one:
            started.append(one)
            is_ready.set()
            await is_over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="test-server")
    thread.start()
    assert is_ready.wait(TIMEOUT_S)
    try:
        yield started[0]
    finally:
        loop.call_soon_threadsafe(is_over.set)
        thread.join(TIMEOUT_S)
        loop.close()


def run(test: Callable[[], Awaitable[Any]], timeout_s: float = TIMEOUT_S) -> None:
    """Runs an asynchronous test, for a bounded time."""

    async def bounded() -> None:
        await asyncio.wait_for(test(), timeout_s)

    # One event loop for all tests: grpc.aio keeps hold of the first loop it meets.
    _loop().run_until_complete(bounded())


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


async def eventually(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Waits until a condition holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)
