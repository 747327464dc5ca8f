"""What `s2l serve` is with engines in several processes, over the fake engine: it starts in a second.

The engines check every plan, and what they answer depends on every page they read. A peer that says nothing is given up
after 0.5 to 1 s instead of 5 to 10 s, and is looked for more often.
"""

import argparse
import asyncio
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.costs import PhysicalCosts
from s2l_jax.core.plan import StepPlan
from s2l_jax.core.scheduler import Scheduler
from s2l_jax.models.tokenizer import ByteTokenizer
from s2l_jax.orchestrator.config import OrchestratorConfig, Role
from s2l_jax.orchestrator.member import EngineUnit
from s2l_jax.orchestrator.orchestrator import Orchestrator
from serving.client.prompt import PromptPieces
from serving.client.types import ModelInfo
from serving.grpc.server import GrpcConfig, GrpcServer, wait_for_signal
from serving.protos.s2l.v1 import engine_pb2 as pb
from serving.remote import engine as engine_module
from serving.remote import peers as peers_module
from serving.remote import server as server_module
from serving.remote.host import EngineHost
from serving.remote.peers import Peers
from serving.remote.server import EngineServer, serve_until_signal
from serving.remote.transport import GrpcTransport
from tests.fakes import FakeEngine

LETTERS = tuple(range(ord("a"), ord("z") + 1))
EOS = 257
STEP_S = 0.004
_WIDTH = 64  # so that a page is as large as a small model's
_QUICK = (
    ("grpc.keepalive_time_ms", 500),
    ("grpc.keepalive_timeout_ms", 500),
    ("grpc.http2.ping_timeout_ms", 500),
    ("grpc.http2.min_ping_interval_without_data_ms", 100),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
)


class SlowEngine(FakeEngine):
    """Takes its time for a step, and its pages look like a real engine's: a number of 64 bits is two of 32."""

    def gather(self, blocks: Sequence[int]) -> tuple[np.ndarray]:  # type: ignore[override]
        numbers, _ = super().gather(blocks)
        pages = np.zeros((len(blocks), _WIDTH, 1, self.block_size, 2), np.float32)
        pages[:, 0, 0] = numbers.view(np.float32).reshape(len(blocks), self.block_size, 2)
        return (pages,)

    def place(self, pages: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:  # type: ignore[override]
        return tuple(pages)

    def scatter(self, blocks: Sequence[int], pages: Sequence[np.ndarray]) -> None:  # type: ignore[override]
        numbers = np.ascontiguousarray(pages[0][:, 0, 0]).view(np.uint64).reshape(len(blocks), self.block_size)
        super().scatter(blocks, (numbers, np.full(numbers.shape, -1, np.int32)))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--role", default="both")
    parser.add_argument("--peers")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ready-file", type=Path, required=True)
    parser.add_argument("--block-size", type=int, required=True)
    parser.add_argument("--kv-blocks", type=int, required=True)
    parser.add_argument("--max-model-len", type=int, required=True)
    parser.add_argument("--max-sessions", type=int, required=True)
    parser.add_argument("--token-budget", type=int, required=True)
    parser.add_argument("--max-batch", type=int, required=True)
    parser.add_argument("--step-timeout-s", type=float, default=120.0)
    options = parser.parse_args()
    _hurry()

    def take_time(_: StepPlan) -> None:
        time.sleep(STEP_S)

    engine = SlowEngine(
        options.kv_blocks,
        options.block_size,
        options.max_sessions,
        vocab_size=258,
        alphabet=LETTERS,
        token_budget=options.token_budget,
        max_batch=options.max_batch,
        hook=take_time,
    )
    if options.role == "both" or options.peers is not None:
        asyncio.run(_serve(options, engine))
    else:
        host = EngineHost(engine, engine, (_WIDTH, 1, options.block_size, 2), "float32")  # type: ignore[arg-type]
        server = EngineServer(host, _description(options), f"{options.host}:{options.port}")
        serve_until_signal(host, server, lambda port: _write_ready(options.ready_file, port))


def _hurry() -> None:
    peers_module.REJOIN_S = 0.1
    engine_module.CONNECT_S = 2.0
    names = {name for name, _ in _QUICK}
    for module, name in ((engine_module, "_CLIENT_OPTIONS"), (server_module, "_OPTIONS")):
        kept = tuple(option for option in getattr(module, name) if option[0] not in names)
        setattr(module, name, (*kept, *_QUICK))


async def _serve(options: argparse.Namespace, engine: SlowEngine) -> None:
    own = EngineUnit(engine, Scheduler(_limits(options)), options.role, engine)  # type: ignore[arg-type]
    units = [own]
    peers = None
    if options.peers is not None:
        addresses = tuple(options.peers.split(","))
        peers = Peers(addresses, _description(options), own.scheduler.config, PhysicalCosts())
        units += peers.units(1)
    config = OrchestratorConfig(
        max_sessions=options.max_sessions * len(units),
        default_max_tokens=8,
        progress_interval_s=0.0,
        step_timeout_s=options.step_timeout_s,
    )
    orchestrator = Orchestrator(units, ByteTokenizer(), config, transport=GrpcTransport() if peers else None)
    orchestrator.start()
    if peers is not None:
        peers.watch(orchestrator, 1)
    pieces = PromptPieces("<", "|", ">", False)
    model = ModelInfo("fake", options.max_model_len, 258, ByteTokenizer.bos_token_id, (EOS,), 8, pieces, "0", "s2l")
    server = GrpcServer(orchestrator, model, GrpcConfig(options.host, options.port))
    _write_ready(options.ready_file, await server.start())
    await wait_for_signal()
    await server.stop(5.0)


def _limits(options: argparse.Namespace) -> SchedulerConfig:
    role: Role = options.role
    return SchedulerConfig(
        num_blocks=options.kv_blocks,
        block_size=options.block_size,
        token_budget=options.token_budget,
        max_batch=options.max_batch,
        max_sessions=options.max_sessions,
        max_model_len=options.max_model_len,
        role="prefill" if role == "prefill" else "both",
        eos_token_ids=frozenset({EOS}),
    )


def _description(options: argparse.Namespace) -> pb.EngineDescription:
    return pb.EngineDescription(
        role=options.role,
        model="fake",
        version="0",
        kv=f"{_WIDTH} x {options.block_size}",
        num_blocks=options.kv_blocks,
        block_size=options.block_size,
        token_budget=options.token_budget,
        max_batch=options.max_batch,
        max_sessions=options.max_sessions,
        max_model_len=options.max_model_len,
        host_blocks=0,
    )


def _write_ready(path: Path, port: int) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps({"port": port, "pid": os.getpid()}), encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    main()
