"""An orchestrator over several fake engines with roles, and ways to break them."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass

from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.plan import StepPlan
from s2l_jax.core.scheduler import Scheduler
from s2l_jax.engine.errors import KVLost
from s2l_jax.models.tokenizer import ByteTokenizer
from s2l_jax.orchestrator.config import OrchestratorConfig
from s2l_jax.orchestrator.member import EngineUnit
from s2l_jax.orchestrator.orchestrator import Orchestrator
from s2l_jax.transport.in_process import InProcessTransport
from s2l_jax.transport.protocol import Pages, Place, Ticket
from tests.fakes import FakeEngine
from tests.orchestrator.harness import EOS, LETTERS, TIMEOUT_S, Recorder

ROLES = {"p": "prefill", "g": "generate", "b": "both"}


class Killed(BaseException):
    """Ends an engine's thread, whatever it is doing."""


class BreakableEngine(FakeEngine):
    """Dies, or loses its KV, at its next step once it is told to; loses it whenever it serves whom it cannot bear."""

    def __init__(self, *args: object, **more: object) -> None:
        super().__init__(*args, **more)  # type: ignore[arg-type]
        self.dies = False
        self.loses_kv = False
        self.poisonous = ""
        self.plans: list[StepPlan] = []

    def submit(self, plan: StepPlan, contexts: object = None) -> None:
        if self.dies:
            self.drop()
            raise Killed
        if self.loses_kv or any(chunk.session_id == self.poisonous for chunk in plan.chunks):
            self.loses_kv = False
            self.lose_kv()
            raise KVLost("the pool is gone")
        self.plans.append(plan)
        super().submit(plan)


class BrokenTransport(InProcessTransport):
    """Holds pages back until it is told to let them go, and loses as many runs as it is told to."""

    def __init__(self, *, lost_runs: int = 0) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.lost_runs = lost_runs

    def fetch(self, ticket: Ticket, place: Place) -> Future[Pages]:
        def held(pages: Pages) -> Pages:
            self.entered.set()
            assert self.opened.wait(TIMEOUT_S)
            if self.lost_runs:
                self.lost_runs -= 1
                raise ConnectionError("the cable is cut")
            return place(pages)

        return super().fetch(ticket, held)


@dataclass
class SeparateWorld:
    """What a test drives and looks at."""

    orchestrator: Orchestrator
    units: list[EngineUnit]
    engines: list[BreakableEngine]

    def ask(self, content: str | Sequence[int], **params: object) -> Recorder:
        """A plain request."""
        sink = Recorder()
        self.orchestrator.open(sink=sink, content=content, final=True, **params)  # type: ignore[arg-type]
        return sink

    def expected(self, content: str, count: int = 8) -> list[int]:
        """What a fresh engine answers."""
        return self.engines[0].reference_output(list(content.encode()), count)

    def check_empty(self) -> None:
        """Fails unless nothing is left of any session in the engines that work."""
        stats = self.orchestrator.stats()
        assert stats.sessions_open == stats.sessions_waiting == 0
        for unit, engine in zip(self.units, stats.engines, strict=True):
            if engine.failure is None:
                unit.scheduler.check_integrity()
                assert (unit.scheduler.open_sessions, unit.scheduler.held_blocks) == (0, 0)
                assert engine.handoffs_waiting == 0
        counters = stats.counters
        ended = counters.sessions_completed + counters.sessions_failed + counters.sessions_cancelled
        assert ended == counters.sessions_opened


@contextmanager
def separate_world(
    roles: str,
    *,
    transport: InProcessTransport | None = None,
    num_blocks: int = 128,
    generate_blocks: int | None = None,
    max_sessions: int = 16,
    max_model_len: int = 128,
    token_budget: int = 32,
    hook: Callable[[StepPlan], None] | None = None,
    config: OrchestratorConfig | None = None,
) -> Iterator[SeparateWorld]:
    """A started orchestrator over engines of these roles (`p`refill, `g`enerate, `b`oth), closed at the end."""
    threads = set(threading.enumerate())
    units, engines = [], []
    for letter in roles:
        role = ROLES[letter]
        blocks = generate_blocks if generate_blocks is not None and letter == "g" else num_blocks
        engine = BreakableEngine(
            blocks, 4, max_sessions, vocab_size=258, alphabet=LETTERS, token_budget=token_budget, max_batch=8, hook=hook
        )
        sizes = SchedulerConfig(
            num_blocks=blocks,
            block_size=4,
            token_budget=token_budget,
            max_batch=8,
            max_sessions=max_sessions,
            max_model_len=max_model_len,
            role="prefill" if role == "prefill" else "both",
            eos_token_ids=frozenset({EOS}),
        )
        units.append(EngineUnit(engine, Scheduler(sizes), role, engine))  # type: ignore[arg-type]
        engines.append(engine)
    limits = config or OrchestratorConfig(default_max_tokens=8, progress_interval_s=0.0)
    orchestrator = Orchestrator(units, ByteTokenizer(), limits, transport=transport)
    try:
        orchestrator.start()
        yield SeparateWorld(orchestrator, units, engines)
    finally:
        if isinstance(transport, BrokenTransport):
            transport.opened.set()
        orchestrator.close(TIMEOUT_S)
    assert all(engine.closed for engine in engines)
    assert set(threading.enumerate()) <= threads
