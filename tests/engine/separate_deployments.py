"""Run as a program, with four CPU devices: what deployments of one and of several engines say, as JSON.

All answer the same sessions, whose contexts stream in and are replaced in part, with pools too small for them.
"""

import json
import random
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax

from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import StepPlan
from s2l_jax.core.scheduler import Scheduler
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.engine import JaxEngine
from s2l_jax.models import tiny_random
from s2l_jax.models.sharding import build_on
from s2l_jax.models.tokenizer import ByteTokenizer
from s2l_jax.orchestrator.config import OrchestratorConfig, Role
from s2l_jax.orchestrator.events import DoneEvent, FailedEvent, SinkEvent, TokenEvent
from s2l_jax.orchestrator.member import EngineUnit
from s2l_jax.orchestrator.orchestrator import Orchestrator

SIZES = EngineConfig(
    num_blocks=12, block_size=4, token_budget=4, max_batch=4, max_sessions=10, max_model_len=48, host_blocks=4
)
SESSIONS, OUTPUT_TOKENS, TIMEOUT_S, DIES_AT_STEP = 10, 10, 200.0, 9
DEPLOYMENTS: dict[str, list[tuple[Role, tuple[int, ...]]]] = {
    "interleaved": [("both", (0,))],
    "2 + 2 devices": [("prefill", (0, 1)), ("generate", (2, 3))],
    "1 + 2 devices": [("prefill", (0,)), ("generate", (2, 3))],
    "2 + 2 engines": [("prefill", (0, 1)), ("prefill", (0,)), ("generate", (2, 3)), ("generate", (1,))],
}


class Killed(BaseException):
    """Ends an engine's thread."""


class MortalEngine:
    """Passes everything on to an engine, which dies at its step of a given number, or never."""

    def __init__(self, engine: JaxEngine, last_step: float = float("inf")) -> None:
        self._steps = 0
        self._last_step = last_step
        self._engine = engine
        self.warmup, self.collect, self.execute = engine.warmup, engine.collect, engine.execute
        self.is_ready, self.close = engine.is_ready, engine.close

    def submit(self, plan: StepPlan) -> None:
        self._steps += 1
        if self._steps > self._last_step:
            raise Killed
        self._engine.submit(plan)


def start(name: str, cache_dir: Path, killed: int | None = None) -> tuple[Orchestrator, list[EngineUnit]]:
    units = []
    weights = tiny_random.random_weights(tiny_random.CONFIG, 0)
    for index, (role, places) in enumerate(DEPLOYMENTS[name]):
        devices = [jax.devices()[place] for place in places]
        model = build_on(devices, tiny_random.CONFIG, weights, "float32")
        engine = JaxEngine(model, tiny_random.CONFIG, replace(SIZES, cache_dir=cache_dir))
        config = SchedulerConfig(
            num_blocks=SIZES.num_blocks,
            block_size=SIZES.block_size,
            token_budget=SIZES.token_budget,
            max_batch=SIZES.max_batch,
            max_sessions=SIZES.max_sessions,
            max_model_len=SIZES.max_model_len,
            host_blocks=SIZES.host_blocks,
            role="prefill" if role == "prefill" else "both",
        )
        mortal = MortalEngine(engine, DIES_AT_STEP) if index == killed else MortalEngine(engine)
        units.append(EngineUnit(mortal, Scheduler(config), role, engine))
    orchestrator = Orchestrator(units, ByteTokenizer(), OrchestratorConfig(session_deadline_s=TIMEOUT_S))
    orchestrator.start()
    return orchestrator, units


class Session:
    """A context that comes in pieces, and what is said to it."""

    def __init__(self, number: int) -> None:
        self.name = f"s{number}"
        self.tokens: list[int] = []
        self.error = ""
        self._number = number
        self._ended = threading.Event()

    def sink(self, event: SinkEvent) -> None:
        if isinstance(event, TokenEvent):
            self.tokens += event.ids
        elif isinstance(event, FailedEvent):
            self.error = str(event.error)
        if isinstance(event, DoneEvent | FailedEvent):
            self._ended.set()

    def pieces(self) -> list[tuple[int, list[int]]]:
        """For each piece, how much of what is there stays, and what follows it."""
        length, pieces, rng = 0, [], random.Random(self._number)
        for _ in range(5):
            keep = rng.randrange(length + 1) if rng.random() < 0.3 else length
            piece = [rng.randrange(256) for _ in range(rng.randrange(2, 8))]
            length = keep + len(piece)
            pieces.append((keep, piece))
        return pieces

    def stream(self, orchestrator: Orchestrator, params: SamplingParams, half: threading.Barrier) -> None:
        """Half of the sessions end before the others complete their contexts, and take memory from them."""
        is_late = self._number % 2 == 1
        orchestrator.open(sink=self.sink, session_id=self.name, params=params)
        for keep, piece in self.pieces():
            orchestrator.update(self.name, piece, keep_tokens=keep)
        half.wait(TIMEOUT_S)
        if not is_late:
            self._finish(orchestrator)
        half.wait(TIMEOUT_S)
        if is_late:
            self._finish(orchestrator)

    def ask(self, orchestrator: Orchestrator, params: SamplingParams) -> None:
        context: list[int] = []
        for keep, piece in self.pieces():
            context = context[:keep] + piece
        orchestrator.open(sink=self.sink, session_id=self.name, params=params, content=context, final=True)
        self._wait()

    def _finish(self, orchestrator: Orchestrator) -> None:
        orchestrator.finish(self.name)
        self._wait()

    def _wait(self) -> None:
        if not self._ended.wait(TIMEOUT_S):
            self.error = "it did not end"


def params_of(number: int) -> SamplingParams:
    """Mostly greedy; some draw, and some look back at what was said."""
    kinds: Sequence[dict[str, Any]] = ({}, {}, {"temperature": 0.8, "seed": number}, {"repetition_penalty": 1.4})
    return SamplingParams(max_tokens=OUTPUT_TOKENS, ignore_eos=True, **kinds[number % len(kinds)])


def run(name: str, cache_dir: Path, *, killed: int | None = None, one_by_one: bool = False) -> dict[str, Any]:
    orchestrator, units = start(name, cache_dir, killed)
    sessions = [Session(number) for number in range(SESSIONS)]
    if one_by_one:
        for number, session in enumerate(sessions):
            session.ask(orchestrator, params_of(number))
    else:
        half = threading.Barrier(SESSIONS)
        with ThreadPoolExecutor(SESSIONS) as pool:
            for number, session in enumerate(sessions):
                pool.submit(session.stream, orchestrator, params_of(number), half)
    stats = orchestrator.stats()
    for unit, engine in zip(units, stats.engines, strict=True):
        if engine.failure is None:
            unit.scheduler.check_integrity()
    orchestrator.close()
    alive = [engine for engine in stats.engines if engine.failure is None]
    return {
        "tokens": [session.tokens for session in sessions],
        "errors": [session.error for session in sessions if session.error],
        "counters": asdict(stats.counters),
        "failed": len(stats.engines) - len(alive),
        "held_blocks": sum(engine.scheduler.held_blocks for engine in alive),
        "evictions": [
            sum((p.swap, p.recompute, p.drop)) for p in (engine.scheduler.preemptions for engine in stats.engines)
        ],
    }


if __name__ == "__main__":
    cache = Path(sys.argv[1])
    results = {"alone": run("interleaved", cache, one_by_one=True)}
    results |= {name: run(name, cache) for name in DEPLOYMENTS}
    for index in (0, 3):
        results[f"engine {index} dies"] = run("2 + 2 engines", cache, killed=index)
    print(json.dumps(results))
