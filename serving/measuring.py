"""Runs the real engine, put together as a server's, to measure it."""

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cost_profiles.engine_padding import padding_of
from cost_profiles.machine import device_name
from cost_profiles.measure import Subject
from cost_profiles.profile import ProfileMemory
from cost_profiles.rounds import OnWindow, Pace, Timed, run_rounds
from cost_profiles.served import ServedStep
from cost_profiles.trial import Trial
from s2l_jax.core.errors import S2LError
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.scheduler import Scheduler
from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.memory import block_bytes, host_bytes
from s2l_jax.engine.protocol import Engine, Progress
from s2l_jax.orchestrator.config import OrchestratorConfig
from s2l_jax.orchestrator.events import DoneEvent, FailedEvent, SinkEvent, TokenEvent
from s2l_jax.orchestrator.member import EngineUnit
from s2l_jax.orchestrator.orchestrator import Orchestrator
from serving.assembly import Built, build, scheduler_config
from serving.assembly import Progress as AssemblyProgress
from serving.config import ServeConfig
from serving.measuring_load import stream_sessions
from serving.measuring_steps import StepRecorder

_SESSIONS = 24
_PROMPT_TOKENS = 16
_LEAST_TOKEN = 64  # below it there may be special ones

MakeTrials = Callable[[EngineConfig], Sequence[Trial]]


@dataclass(frozen=True, slots=True)
class MeasuredEngine:
    """What came of measuring.

    Attributes:
      built: the engine, closed.
      timed: its trials.
      latency_s: what a session takes from its opening to its first token beside the device's work: a median.
      served: steps that an orchestrator ran with sessions that stream.
    """

    built: Built
    timed: list[Timed]
    latency_s: float
    served: list[ServedStep]


def measure_engine(
    config: ServeConfig,
    make_trials: MakeTrials,
    pace: Pace,
    progress: AssemblyProgress | None = None,
    on_window: OnWindow | None = None,
) -> MeasuredEngine:
    """Builds an engine, times trials on it, then some sessions through an orchestrator, and closes it.

    Args:
      config: of the server whose engine it is.
      make_trials: given the engine's sizes, says what to time.
      pace: how long.
      progress: told about loading and compiling.
      on_window: told about trials.

    Raises:
      InvalidArgument: model, limits and machine do not go together, or the engine is too small for the trials.
      Unavailable: the engine failed.
    """
    built = build(config, progress)
    trials = make_trials(built.sizes)
    stop = threading.Event()
    watched = _WatchedEngine(built.engine, lambda engine: run_rounds(engine, trials, pace, on_window, stop))
    limits = OrchestratorConfig(
        max_sessions=built.sizes.max_sessions, default_max_tokens=1, limit_max_tokens=built.sizes.max_model_len
    )
    scheduler = Scheduler(scheduler_config(config, built))
    orchestrator = Orchestrator([EngineUnit(watched, scheduler)], built.model.tokenizer, limits)
    try:
        orchestrator.start(
            None if progress is None else lambda done, total, name: progress("compile", done, total, name)
        )
        latency_s = _latency_s(orchestrator, watched, built)
        watched.steps.clear()
        sizes = built.sizes
        stream_sessions(orchestrator, built.model.config.vocab_size, sizes.max_model_len, sizes.max_sessions)
        served = list(watched.steps)
    finally:
        stop.set()  # so that an interrupted measurement ends with its window
        orchestrator.close()
    return MeasuredEngine(built, watched.timed, latency_s, served)


def subject_of(name: str, built: Built) -> Subject:
    """What a profile of this engine says of it."""
    device = built.devices[0]
    sizes, model = built.sizes, built.model.config
    one_block_bytes = block_bytes(model, sizes.block_size, sizes.dtype)
    stats: dict[str, Any] = device.memory_stats() or {}
    memory = ProfileMemory(
        device_bytes=stats.get("bytes_limit") or host_bytes(),
        host_bytes=sizes.host_blocks * one_block_bytes,
        weights_bytes=built.weights_bytes,
        block_bytes=one_block_bytes,
        block_tokens=sizes.block_size,
    )
    return Subject(
        name=name,
        model=model.name,
        hardware=device_name(device.platform, device.device_kind),
        devices=len(built.devices),
        dtype=sizes.dtype,
        memory=memory,
        max_model_len=sizes.max_model_len,
        padding=padding_of(sizes),
    )


class _WatchedEngine(StepRecorder):
    """Does a job at the end of its warm-up."""

    def __init__(self, engine: Engine, job: Callable[[Engine], list[Timed]]) -> None:
        super().__init__(engine)
        self.timed: list[Timed] = []
        self._job = job

    def warmup(self, progress: Progress | None = None) -> None:
        super().warmup(progress)
        self.timed = self._job(self.engine)


def _latency_s(orchestrator: Orchestrator, engine: _WatchedEngine, built: Built) -> float:
    """Median over short sessions, one after the other; the first ones find everything cold."""
    rng = np.random.default_rng(0)
    tokens = min(_PROMPT_TOKENS, built.sizes.max_model_len - 1)
    latencies = []
    for _ in range(_SESSIONS):
        prompt = rng.integers(_LEAST_TOKEN, built.model.config.vocab_size, tokens).tolist()
        engine.steps.clear()
        ttft_s = _ttft_s(orchestrator, prompt)
        latencies.append(ttft_s - sum(step.seconds for step in engine.steps))
    return max(0.0, statistics.median(latencies))


def _ttft_s(orchestrator: Orchestrator, prompt: list[int]) -> float:
    """Seconds from opening a session of one output token to its end.

    Raises:
      S2LError: the session failed.
    """
    ended = threading.Event()
    first_s, errors = [], []

    def sink(event: SinkEvent) -> None:
        if isinstance(event, TokenEvent):
            first_s.append(time.perf_counter())
        if isinstance(event, FailedEvent):
            errors.append(event.error)
        if isinstance(event, FailedEvent | DoneEvent):
            ended.set()

    began_s = time.perf_counter()
    orchestrator.open(sink=sink, params=SamplingParams(max_tokens=1), content=prompt, final=True)
    ended.wait()
    if errors:
        error: S2LError = errors[0]
        raise error
    return first_s[0] - began_s
