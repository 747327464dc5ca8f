"""An orchestrator over the fake engine, and a sink that remembers."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import Mock

from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.costs import CostModel
from s2l_jax.core.plan import StepPlan
from s2l_jax.core.scheduler import Scheduler
from s2l_jax.models.tokenizer import ByteTokenizer
from s2l_jax.orchestrator.config import OrchestratorConfig
from s2l_jax.orchestrator.events import DoneEvent, FailedEvent, ProgressEvent, SinkEvent, TokenEvent
from s2l_jax.orchestrator.member import EngineUnit
from s2l_jax.orchestrator.orchestrator import Orchestrator
from tests.fakes import FakeEngine

TIMEOUT_S = 20.0
LETTERS = tuple(range(ord("a"), ord("f")))
EOS = 257


class Recorder:
    """A sink that keeps everything and can be waited for."""

    def __init__(self) -> None:
        self.events: list[SinkEvent] = []
        self.ended = threading.Event()

    def __call__(self, event: SinkEvent) -> None:
        assert not self.ended.is_set(), f"{event} came after the last event"
        self.events.append(event)
        if isinstance(event, DoneEvent | FailedEvent):
            self.ended.set()

    @property
    def last(self) -> SinkEvent:
        """The event that ended the session; waits for it."""
        assert self.ended.wait(TIMEOUT_S), f"the session did not end: {self.events[-3:]}"
        return self.events[-1]

    @property
    def done(self) -> DoneEvent:
        assert isinstance(self.last, DoneEvent), self.last
        return self.last

    @property
    def error(self) -> Exception:
        assert isinstance(self.last, FailedEvent), self.last
        return self.last.error

    @property
    def tokens(self) -> list[TokenEvent]:
        """All of an ended session's; so is `progress`."""
        assert self.last
        return [event for event in self.events if isinstance(event, TokenEvent)]

    @property
    def progress(self) -> list[ProgressEvent]:
        assert self.last
        return [event for event in self.events if isinstance(event, ProgressEvent)]

    @property
    def ids(self) -> list[int]:
        """All sampled tokens of a session that ended well."""
        assert self.done
        return [token for event in self.tokens for token in event.ids]

    @property
    def text(self) -> str:
        """The whole text of a session that ended well."""
        assert self.done
        return "".join(event.text for event in self.tokens)


class FakeClock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Gate:
    """An engine hook that holds steps back until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, plan: StepPlan) -> None:
        self.entered.set()
        assert self.opened.wait(TIMEOUT_S)


@dataclass
class World:
    """What a test drives and looks at."""

    orchestrator: Orchestrator
    scheduler: Scheduler
    engine: FakeEngine

    def ask(self, content: str | Sequence[int], **params: object) -> Recorder:
        """A plain request."""
        sink = Recorder()
        self.orchestrator.open(sink=sink, content=content, final=True, **params)  # type: ignore[arg-type]
        return sink

    def check_empty(self) -> None:
        """Fails unless nothing is left of any session."""
        stats = self.orchestrator.stats()
        self.scheduler.check_integrity()
        assert stats.sessions_open == stats.sessions_waiting == 0
        assert stats.scheduler.held_blocks == 0
        ended = stats.counters.sessions_completed + stats.counters.sessions_failed + stats.counters.sessions_cancelled
        assert ended == stats.counters.sessions_opened


@contextmanager
def world(
    *,
    config: OrchestratorConfig | None = None,
    clock: Callable[[], float] | None = None,
    hook: Callable[[StepPlan], None] | None = None,
    collect_hook: Callable[[StepPlan], None] | None = None,
    engine_type: type[FakeEngine] = FakeEngine,
    costs: CostModel | None = None,
    alphabet: Sequence[int] = LETTERS,
    num_blocks: int = 128,
    max_sessions: int = 16,
    max_model_len: int = 256,
    token_budget: int = 32,
    warmup_error: BaseException | None = None,
) -> Iterator[World]:
    """A started orchestrator; closed, and checked for threads and blocks left behind, at the end."""
    threads = set(threading.enumerate())
    engine = engine_type(
        num_blocks,
        4,
        max_sessions,
        vocab_size=258,
        alphabet=alphabet,
        token_budget=token_budget,
        max_batch=8,
        hook=hook,
        collect_hook=collect_hook,
    )
    scheduler = Scheduler(
        SchedulerConfig(
            num_blocks=num_blocks,
            block_size=4,
            token_budget=token_budget,
            max_batch=8,
            max_sessions=max_sessions,
            max_model_len=max_model_len,
            eos_token_ids=frozenset({EOS}),
        ),
        costs,
    )
    limits = config or OrchestratorConfig(default_max_tokens=8, progress_interval_s=0.0)
    orchestrator = Orchestrator([EngineUnit(engine, scheduler)], ByteTokenizer(), limits, *([clock] if clock else []))
    if warmup_error is not None:
        engine.warmup = Mock(side_effect=warmup_error)  # type: ignore[method-assign]
    try:
        orchestrator.start()
        yield World(orchestrator, scheduler, engine)
    finally:
        orchestrator.close(TIMEOUT_S)
    assert engine.closed
    assert set(threading.enumerate()) <= threads


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits for a condition that nothing announces."""
    pause = threading.Event()
    for _ in range(int(TIMEOUT_S / 0.002)):
        if condition():
            return
        pause.wait(0.002)
    raise AssertionError("the condition did not come true")
