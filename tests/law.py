"""The law as a hypothesis state machine, for any engine.

Whatever the interleaving of events, steps, preemptions and cancellations, each session's output equals what a fresh
engine gives for the final context at once, and after every move all pools add up. A subclass brings the engine and the
reference.
"""

from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from s2l_jax.core.ids import SessionId
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import StepPlan, StepResult
from s2l_jax.core.policy import POLICIES
from s2l_jax.core.scheduler import Scheduler
from s2l_jax.core.session import SessionState

MAX_MODEL_LEN = 48
MAX_TOKENS = 5
# Pieces are prefixes of a few fixed texts, so that contexts share prefixes of any length and pools fill up quickly.
TEXTS = np.random.default_rng(0).integers(0, 4, (4, 40)).tolist()
TOKENS = st.builds(lambda text, length: text[:length], st.sampled_from(TEXTS), st.integers(0, 40))


def law_settings(config: pytest.Config) -> settings:
    """Settings of a run: as many interleavings as `--law-examples` says."""
    return settings(
        max_examples=config.getoption("--law-examples"),
        stateful_step_count=60,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


class Stream:
    """What a client knows of its session."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.context: list[int] = []
        self.seq = 1
        self.is_final = False
        self.output: list[int] = []
        self.finish_reason: str | None = None


class LawMachine(RuleBasedStateMachine):
    """Drives scheduler and engine at random."""

    block_size: ClassVar[int] = 4
    max_blocks: ClassVar[int] = 40
    max_batch: ClassVar[int] = 4
    max_sessions: ClassVar[int] = 6
    max_token_budget: ClassVar[int] = 16

    def execute(self, plan: StepPlan) -> StepResult:
        raise NotImplementedError

    def reference(self, context: list[int], count: int) -> list[int]:
        raise NotImplementedError

    @initialize(data=st.data())
    def start(self, data: st.DataObject) -> None:
        smallest = MAX_MODEL_LEN // self.block_size
        self.scheduler = Scheduler(
            SchedulerConfig(
                num_blocks=data.draw(
                    st.sampled_from([smallest, smallest + 2, 2 * smallest, self.max_blocks]), "blocks"
                ),
                block_size=self.block_size,
                token_budget=data.draw(st.integers(self.max_batch, self.max_token_budget), "token budget"),
                max_batch=self.max_batch,
                max_sessions=self.max_sessions,
                max_model_len=MAX_MODEL_LEN,
                policy=data.draw(st.sampled_from(sorted(POLICIES)), "policy"),
            )
        )
        self.now_s = 0.0
        self.streams: dict[SessionId, Stream] = {}
        self.done: list[Stream] = []
        self.opened = 0
        self.flying: StepPlan | None = None
        for _ in range(data.draw(st.integers(0, self.max_sessions), "streams at the start")):
            self.open(data.draw(TOKENS), data.draw(st.integers(1, MAX_TOKENS)), False)

    # Events

    @rule(tokens=TOKENS, max_tokens=st.integers(1, MAX_TOKENS), final=st.booleans())
    def arrive(self, tokens: list[int], max_tokens: int, final: bool) -> None:
        self.open(tokens, max_tokens, final)

    def open(self, tokens: list[int], max_tokens: int, final: bool) -> None:
        session_id = SessionId(f"s{self.opened}")
        params = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
        stream = Stream(max_tokens)
        try:
            self.scheduler.open(session_id, tokens, params, self.now_s, final=final)
        except ResourceExhausted:
            assert len(self.streams) == self.max_sessions
            return
        except InvalidArgument:
            assert final and not tokens
            return
        self.opened += 1
        stream.context, stream.is_final = list(tokens), final
        self.streams[session_id] = stream

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), tokens=TOKENS, final=st.booleans())
    def append(self, data: st.DataObject, tokens: list[int], final: bool) -> None:
        session_id, stream = self._pick(data)
        self._change(session_id, stream, stream.context + tokens, final, keep=len(stream.context))

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), tokens=TOKENS, final=st.booleans(), resend=st.booleans())
    def update(self, data: st.DataObject, tokens: list[int], final: bool, resend: bool) -> None:
        session_id, stream = self._pick(data)
        keep = data.draw(st.integers(0, len(stream.context)), "keep")
        context = stream.context[:keep] + tokens
        self._change(session_id, stream, context, final, keep=0 if resend else keep)

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        session_id, stream = self._pick(data)
        self._change(session_id, stream, stream.context, True, keep=len(stream.context))

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        session_id, stream = self._pick(data)
        seq = data.draw(st.integers(1, stream.seq), "seq")
        ack = self.scheduler.append(session_id, [1, 2, 3], self.now_s, seq=seq)
        assert ack.duplicate and ack.seq == seq

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def gap(self, data: st.DataObject) -> None:
        session_id, stream = self._pick(data)
        try:
            self.scheduler.append(session_id, [1], self.now_s, seq=stream.seq + 2)
        except InvalidArgument:
            return
        raise AssertionError("a gap in the sequence numbers was accepted")

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        session_id, _ = self._pick(data)
        self.scheduler.cancel(session_id)
        del self.streams[session_id]

    # Steps: events may come between take-off and landing.

    @precondition(lambda self: self.flying is None)
    @rule()
    def take_off(self) -> None:
        self.now_s += 1.0
        self.flying = self.scheduler.plan(self.now_s)

    @precondition(lambda self: self.flying is not None)
    @rule()
    def land(self) -> None:
        assert self.flying is not None
        plan, self.flying = self.flying, None
        for output in self.scheduler.commit(self.execute(plan), self.now_s):
            stream = self.streams[output.session_id]
            stream.output.append(output.token.token_id)
            if output.finish_reason:
                stream.finish_reason = output.finish_reason
                self.done.append(self.streams.pop(output.session_id))

    @rule(count=st.integers(1, 8))
    def run(self, count: int) -> None:
        for _ in range(count):
            self.step()

    def step(self) -> None:
        if self.flying is None:
            self.take_off()
        if self.flying is not None:
            self.land()
            self.scheduler.check_integrity()

    # What must hold

    @invariant()
    def adds_up(self) -> None:
        if hasattr(self, "scheduler"):
            self.scheduler.check_integrity()

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        # Half the streams stay idle: they must not keep the others from finishing.
        idle = [key for index, key in enumerate(self.streams) if index % 2 and not self.streams[key].is_final]
        for session_id, stream in list(self.streams.items()):
            if session_id not in idle and not stream.is_final:
                self._change(session_id, stream, stream.context or [1], True, keep=len(stream.context))
        tokens = sum(len(stream.context) + stream.max_tokens for stream in self.streams.values())
        for _ in range(tokens * 4 + 8):
            if len(self.streams) == len(idle):
                break
            self.step()
            self.scheduler.check_integrity()
        assert len(self.streams) == len(idle), f"starved: {self._unfinished(idle)}"
        if self.flying is not None:
            self.land()
        for session_id in idle:
            self.scheduler.cancel(session_id)
        for stream in self.done:
            assert stream.output == self.reference(stream.context, stream.max_tokens)
            assert stream.finish_reason == "length"
        self.scheduler.check_integrity()
        stats = self.scheduler.stats()
        assert stats.free_blocks == stats.total_blocks and not stats.sessions
        assert not self.scheduler.has_work

    def _pick(self, data: st.DataObject) -> tuple[SessionId, Stream]:
        session_id = data.draw(st.sampled_from(sorted(self.streams)), "session")
        return session_id, self.streams[session_id]

    def _change(self, session_id: SessionId, stream: Stream, context: list[int], final: bool, keep: int) -> None:
        try:
            ack = self.scheduler.update(session_id, context[keep:], self.now_s, keep=keep, final=final)
        except FailedPrecondition:
            assert stream.is_final
            return
        except InvalidArgument:
            too_long = len(context) + stream.max_tokens > MAX_MODEL_LEN
            assert too_long or (final and not context)
            return
        stream.seq += 1
        common = next((i for i, (a, b) in enumerate(zip(stream.context, context, strict=False)) if a != b), None)
        assert ack.kept_tokens == (min(len(stream.context), len(context)) if common is None else common)
        assert ack.seq == stream.seq and ack.context_tokens == len(context)
        stream.context, stream.is_final = list(context), final

    def _unfinished(self, idle: list[SessionId]) -> list[str]:
        sessions = (self.scheduler.session(key) for key in self.streams if key not in idle)
        return [
            f"{s.id} {s.state} {s.computed}/{np.size(s.tokens.view)}" for s in sessions if s.state != SessionState.DONE
        ]
