"""The server that `server_load.py` loads: `s2l serve`'s own parts over tiny-random, with instruments in between.

For each line on standard input it answers with one line of JSON about the time since the line before.
"""

import asyncio
import json
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from s2l_jax.core.plan import StepPlan, StepResult
from s2l_jax.engine.protocol import Engine, Progress
from serving.assembly import assemble
from serving.config import ServeConfig
from serving.grpc.server import GrpcConfig, GrpcServer
from serving.http.server import HttpConfig, HttpServer
from serving.runner import run

PROBE_S = 0.01
_PAGE_BYTES = 4096
_TICKS_PER_S = 100


class MeteredEngine:
    """An engine, and how much of its thread's CPU time is spent in it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.inside_s = 0.0
        self.thread_id = 0

    def warmup(self, progress: Progress | None = None) -> None:
        self.thread_id = threading.get_native_id()
        self._engine.warmup(progress)

    def submit(self, plan: StepPlan) -> None:
        began_s = time.thread_time()
        self._engine.submit(plan)
        self.inside_s += time.thread_time() - began_s

    def collect(self) -> StepResult:
        began_s = time.thread_time()
        result = self._engine.collect()
        self.inside_s += time.thread_time() - began_s
        return result

    def is_ready(self) -> bool:
        began_s = time.thread_time()
        is_ready = self._engine.is_ready()
        self.inside_s += time.thread_time() - began_s
        return is_ready

    def execute(self, plan: StepPlan) -> StepResult:
        self.submit(plan)
        return self.collect()

    def close(self) -> None:
        self._engine.close()


@dataclass
class Probe:
    """How late the event loop runs what is due, in seconds."""

    late_s: list[float] = field(default_factory=list)

    async def watch(self) -> None:
        due_s = time.monotonic() + PROBE_S
        while True:
            await asyncio.sleep(due_s - time.monotonic())
            now_s = time.monotonic()
            self.late_s.append(now_s - due_s)
            due_s = max(due_s + PROBE_S, now_s)

    def take(self) -> np.ndarray:
        late_s, self.late_s = np.array(self.late_s or [0.0]), []
        return late_s


def cpu_s() -> dict[int, tuple[str, float]]:
    """Name and CPU time in seconds of each thread of this process."""
    found = {}
    for folder in Path("/proc/self/task").iterdir():
        try:
            head, _, rest = (folder / "stat").read_text().rpartition(")")
        except OSError:
            continue  # it has just ended
        fields = rest.split()
        found[int(folder.name)] = (head.partition("(")[2], (int(fields[11]) + int(fields[12])) / _TICKS_PER_S)
    return found


async def serve(assembly: Any, engine: MeteredEngine) -> None:
    orchestrator, model = assembly.orchestrator, assembly.model
    grpc = GrpcServer(orchestrator, model, GrpcConfig(port=0))
    http = HttpServer(orchestrator, model, assembly.tokenizer, assembly.chat_template, HttpConfig(port=0))
    print(json.dumps({"grpc": await grpc.start(), "http": await http.start()}), flush=True)
    probe = Probe()
    watching = asyncio.create_task(probe.watch())
    last_cpu, last_inside_s, last_tokens = cpu_s(), engine.inside_s, 0
    while (await asyncio.to_thread(sys.stdin.readline)).strip():
        late_ms = 1e3 * probe.take()
        stats = orchestrator.stats()
        cpu, inside_s, tokens = cpu_s(), engine.inside_s, stats.counters.tokens_output
        spent = {
            thread: (name, seconds - last_cpu.get(thread, ("", 0.0))[1]) for thread, (name, seconds) in cpu.items()
        }
        named: dict[str, float] = {}
        for thread, (name, seconds) in spent.items():
            key = "loop" if thread == threading.main_thread().native_id else name
            named[key] = named.get(key, 0.0) + seconds
        print(
            json.dumps(
                {
                    "rss_mib": int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES / 2**20,
                    "late_ms": [round(float(one), 3) for one in late_ms],
                    "tokens": tokens - last_tokens,
                    "cpu_s": named,
                    "engine_thread_s": spent.get(engine.thread_id, ("", 0.0))[1],
                    "engine_inside_s": inside_s - last_inside_s,
                    "sessions": stats.sessions_open,
                }
            ),
            flush=True,
        )
        last_cpu, last_inside_s, last_tokens = cpu, inside_s, tokens
    watching.cancel()
    await grpc.stop(0.0)
    await http.stop()


def main() -> None:
    sessions = int(sys.argv[1])
    engines: list[MeteredEngine] = []

    def wrap(engine: Engine) -> Engine:
        engines.append(MeteredEngine(engine))
        return engines[-1]

    config = ServeConfig(
        model="tiny-random",
        max_model_len=512,
        kv_blocks=8192,
        host_kv_gib=0.0,
        preemption="recompute",
        max_sessions=sessions,
    )
    run(serve(assemble(config, wrap_engine=wrap), engines[0]))


if __name__ == "__main__":
    main()
