import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import pytest

from s2l_jax.core.errors import ResourceExhausted
from s2l_jax.core.params import SamplingParams
from serving.client.types import Done, Event, Token
from workloads.replay.rows import write_rows
from workloads.replay.runner import Measured, run_replay
from workloads.replay.schedule import plan_sessions
from workloads.replay.summary import RunInfo, summarise, write_summary
from workloads.replay.target import Piece, TargetCounters, TargetInfo
from workloads.trace import Event as TraceEvent
from workloads.trace import Header, Trace, read_trace, write_trace


class FakeTarget:
    """Answers with the context's last words; prefills one character in `char_s`, one session after the other."""

    def __init__(self, char_s: float = 0.0, fail: frozenset[str] = frozenset(), answer: str | None = None) -> None:
        self.name = "fake"
        self.sent: dict[str, list[Piece]] = {}
        self.cancelled: list[str] = []
        self._char_s, self._fail, self._answer = char_s, fail, answer
        self._device = asyncio.Lock()
        self._steps = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def info(self) -> TargetInfo:
        return TargetInfo("fake-model", 256, policy="fcfs", version="0")

    async def counters(self) -> TargetCounters:
        return TargetCounters(self._steps, {"swap": self._steps, "recompute": 2 * self._steps})

    async def run(self, session_id: str, params: SamplingParams, pieces: AsyncIterator[Piece]) -> AsyncIterator[Event]:
        context: Any = None
        try:
            async for piece in pieces:
                self.sent.setdefault(session_id, []).append(piece)
                new = piece.content
                if new is not None and context is not None:
                    keep = len(context)
                    if piece.op == "update":
                        keep = piece.keep_chars if isinstance(new, str) else piece.keep_tokens
                    context = context[:keep] + new
                elif new is not None:
                    context = new
                async with self._device:
                    await asyncio.sleep(self._char_s * len(new or ()))
                    self._steps += 1
            if session_id in self._fail:
                raise ResourceExhausted("no room")
            answer = self._answer or str(context[-8:])
            for character in answer[: params.max_tokens]:
                yield Token((ord(character),), character)
                await asyncio.sleep(0)
            n = len(context)
            yield Done("stop", n, min(len(answer), params.max_tokens), n, 0, 1, 0, 0, 0, 0.2, 0.1)
        except asyncio.CancelledError:
            self.cancelled.append(session_id)
            raise


@pytest.fixture
def make_target() -> Callable[..., FakeTarget]:
    return FakeTarget


@pytest.fixture
def make_trace(tmp_path: Path) -> Callable[..., Trace]:
    """A trace of text: each session opens, gets four pieces `gap_s` apart, and finishes with the last one."""

    def make(sessions: int = 4, gap_s: float = 0.02) -> Trace:
        events = []
        for number in range(sessions):
            session, start_s = f"s{number}", 0.01 * number
            events.append(TraceEvent(start_s, session, "open", text="head ", max_tokens=5, note=f"question {number}?"))
            for chunk in range(1, 5):
                text = f"page {chunk} of {number} " * 5
                events.append(TraceEvent(start_s + chunk * gap_s, session, "append", text=text))
            events.append(TraceEvent(start_s + 4 * gap_s, session, "finish"))
        path = tmp_path / "trace.jsonl"
        write_trace(path, Header("made-up"), events)
        return read_trace(path)

    return make


@pytest.fixture
def write_run(make_trace: Callable[..., Trace], tmp_path: Path) -> Callable[..., Path]:
    """Replays a trace against a fake target and writes the run's folder."""

    def write(name: str, mode: str = "stream", target: FakeTarget | None = None, sessions: int = 4) -> Path:
        trace = make_trace(sessions)

        async def replay() -> Measured:
            fake = target or FakeTarget()
            return await run_replay(plan_sessions(trace.sessions, mode, 50.0, 1, 256), fake, asyncio.Event())

        measured = asyncio.run(replay())
        info = RunInfo(mode, 50.0, "fake", "fcfs", "fake-model", 1, trace.header.name, trace.sha256)
        folder = tmp_path / name
        write_rows(folder, measured.sessions, measured.events)
        summary = summarise(measured, info, TargetCounters(), TargetCounters(7, {"swap": 3}))
        write_summary(folder, summary)
        return folder

    return write
