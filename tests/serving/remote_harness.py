"""Fake engines whose pages can travel, servers of them on free ports, and an orchestrator in front."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.costs import PhysicalCosts
from s2l_jax.core.scheduler import Scheduler
from s2l_jax.models.tokenizer import ByteTokenizer
from s2l_jax.orchestrator.config import OrchestratorConfig
from s2l_jax.orchestrator.member import EngineUnit
from s2l_jax.orchestrator.orchestrator import Orchestrator
from serving.protos.s2l.v1 import engine_pb2 as pb
from serving.remote.choice import transport_between
from serving.remote.host import EngineHost
from serving.remote.peers import Peers
from serving.remote.server import EngineServer
from tests.orchestrator.harness import EOS, LETTERS, TIMEOUT_S
from tests.orchestrator.separate_harness import BreakableEngine, SeparateWorld

if TYPE_CHECKING:
    from serving.remote.device_link import DeviceLink

BLOCKS, SESSIONS, BLOCK_SIZE = 64, 12, 4
PAGE_SHAPE = (1, 1, BLOCK_SIZE, 2)


class TravellingEngine(BreakableEngine):
    """Its pages look like those of a real one: a number of 64 bits is two of 32."""

    def gather(self, blocks: Sequence[int]) -> tuple[np.ndarray]:  # type: ignore[override]
        pages, _ = super().gather(blocks)
        return (pages.view(np.float32).reshape(len(blocks), *PAGE_SHAPE),)

    def place(self, pages: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:  # type: ignore[override]
        return tuple(pages)

    def scatter(self, blocks: Sequence[int], pages: Sequence[np.ndarray]) -> None:  # type: ignore[override]
        numbers = np.ascontiguousarray(pages[0]).view(np.uint64).reshape(len(blocks), BLOCK_SIZE)
        super().scatter(blocks, (numbers, np.full(numbers.shape, -1, np.int32)))


def make_engine() -> TravellingEngine:
    return TravellingEngine(
        BLOCKS, BLOCK_SIZE, SESSIONS, vocab_size=258, alphabet=LETTERS, token_budget=32, max_batch=8, host_blocks=8
    )


def description(role: str, **changes: object) -> pb.EngineDescription:
    values = {
        "role": role,
        "model": "fake",
        "version": "1",
        "kv": "fake",
        "num_blocks": BLOCKS,
        "block_size": BLOCK_SIZE,
        "token_budget": 32,
        "max_batch": 8,
        "max_sessions": SESSIONS,
        "max_model_len": 128,
        "host_blocks": 8,
    }
    return pb.EngineDescription(**(values | changes))


def serve(role: str, engine: TravellingEngine, port: int = 0, link: "DeviceLink | None" = None) -> EngineServer:
    host = EngineHost(engine, engine, PAGE_SHAPE, "float32", link)
    return EngineServer(host, description(role, pulls_pages=link is not None), f"127.0.0.1:{port}")


def limits(role: str = "both") -> SchedulerConfig:
    return SchedulerConfig(
        num_blocks=BLOCKS,
        block_size=BLOCK_SIZE,
        token_budget=32,
        max_batch=8,
        max_sessions=SESSIONS,
        max_model_len=128,
        host_blocks=8,
        role="prefill" if role == "prefill" else "both",
        eos_token_ids=frozenset({EOS}),
    )


@contextmanager
def remote_world(
    local: str,
    remote: Sequence[str],
    *,
    step_timeout_s: float = 60.0,
    make_link: "Callable[[], DeviceLink] | None" = None,
    late: Sequence[str] = (),
) -> Iterator[tuple[SeparateWorld, list[EngineServer]]]:
    """An orchestrator with one engine of its own, and engines of these roles behind servers; nobody is `late` yet."""
    engines = [make_engine() for _ in range(1 + len(remote))]
    links = [make_link() if make_link else None for _ in engines]
    servers = [
        serve(role, engine, link=link) for role, engine, link in zip(remote, engines[1:], links[1:], strict=True)
    ]
    addresses = (*(f"127.0.0.1:{server.port}" for server in servers), *late)
    peers = Peers(addresses, description(local), limits(), PhysicalCosts())
    own = EngineUnit(engines[0], Scheduler(limits(local)), local, engines[0])  # type: ignore[arg-type]
    units = [own, *peers.units(1)]
    config = OrchestratorConfig(default_max_tokens=8, progress_interval_s=0.0, step_timeout_s=step_timeout_s)
    transport = transport_between("jax" if make_link else "auto", peers.engines, "127.0.0.1")
    orchestrator = Orchestrator(units, ByteTokenizer(), config, transport=transport)
    try:
        orchestrator.start()
        peers.watch(orchestrator, 1)
        yield SeparateWorld(orchestrator, units, engines), servers  # type: ignore[arg-type]
    finally:
        orchestrator.close(TIMEOUT_S)
        for server in servers:
            server.stop()
