"""Replays sessions on a virtual clock: the real scheduler, with a cost model in place of an engine.

A step takes what the cost model says for its shape; page copies in either direction run beside the computation, so
only what outlasts it adds to the step. As in the real engine loop, the next step is planned while the current one runs.
"""

import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import inf

import numpy as np

from s2l_jax.core.costs import CostModel
from s2l_jax.core.errors import InternalError, InvalidArgument, S2LError
from s2l_jax.core.ids import SessionId
from s2l_jax.core.outcome import Output, SessionStats
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import Sample, SampledToken, StepPlan, StepResult, StepTiming
from s2l_jax.core.scheduler import Scheduler
from workloads.replay.rows import EventRow, SessionRow
from workloads.replay.runner import Measured
from workloads.replay.schedule import PlannedSession
from workloads.replay.target import Piece, TargetCounters

_VOCAB = 4096
_FIRST_TOKEN = 64
_GOLDEN = 0x9E3779B1
_NO_TOKENS = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a simulated replay gave.

    Attributes:
      measured: sessions and events as a replay in real time would have seen them; `wall_s` is the virtual time.
      counters: the scheduler's.
      busy_s: virtual seconds in which a step ran.
      copy_s: of these, seconds in which nothing but page copies ran.
    """

    measured: Measured
    counters: TargetCounters
    busy_s: float
    copy_s: float


@dataclass(slots=True)
class _Running:
    """A step that has been handed to the device."""

    plan: StepPlan
    timing: StepTiming

    @property
    def duration_s(self) -> float:
        return max(self.timing)


def simulate(
    planned: Sequence[PlannedSession], scheduler: Scheduler, costs: CostModel, *, plan_at: float = 0.7
) -> Simulated:
    """Replays planned sessions, whose content is tokens, and returns once each is done or was refused.

    Args:
      planned: what is sent when.
      scheduler: a fresh one.
      costs: how long steps and copies take; usually what the scheduler predicts with, but need not be.
      plan_at: share of a running step after which the next one is planned; 1 plans it when this one is done.

    Raises:
      InvalidArgument: a session brings text; there is no tokenizer here.
      InternalError: the scheduler has sessions left but does not go on with them.
    """
    for session in planned:
        if any(isinstance(piece.content, str) for _, piece in session.pieces):
            raise InvalidArgument(f"session {session.session!r} brings text, but a simulation takes tokens only")
    return _Simulation(planned, scheduler, costs, plan_at).run()


@dataclass(slots=True)
class _Simulation:
    """One run: the clock, the device with at most two steps, and what has been seen."""

    planned: Sequence[PlannedSession]
    scheduler: Scheduler
    costs: CostModel
    plan_at: float
    now_s: float = 0.0
    started_s: float = 0.0  # of the step that runs
    busy_s: float = 0.0
    copy_s: float = 0.0
    running: deque[_Running] = field(default_factory=deque)
    rows: dict[str, SessionRow] = field(default_factory=dict)
    events: list[EventRow] = field(default_factory=list)

    def run(self) -> Simulated:
        arriving = deque(_agenda(self.planned))
        plan_s = inf  # when to plan next; inf until something changes
        while True:
            arrival_s = arriving[0][0] if arriving else inf
            end_s = self.started_s + self.running[0].duration_s if self.running else inf
            if (next_s := min(arrival_s, end_s, plan_s)) == inf:
                break
            self.now_s = next_s
            if arrival_s == next_s:
                _, session, piece = arriving.popleft()
                if piece is None:
                    self._arrive(session)
                else:
                    self._send(session, piece)
                plan_s = self._next_plan_s()
            elif end_s == next_s:
                self._land()
                plan_s = self._next_plan_s()
            else:
                plan_s = self._next_plan_s() if self._plan() else inf
        return self._result()

    def _next_plan_s(self) -> float:
        """When the loop turns to planning, if there may be something to plan."""
        if not self.running:
            return self.now_s
        if len(self.running) > 1 or self.plan_at >= 1:
            return inf
        return max(self.now_s, self.started_s + self.plan_at * self.running[0].duration_s)

    def _plan(self) -> bool:
        plan = self.scheduler.plan(self.now_s)
        if plan is None:
            return False
        if not self.running:
            self.started_s = self.now_s
        self.running.append(_Running(plan, self._timing(plan)))
        return True

    def _timing(self, plan: StepPlan) -> StepTiming:
        computes = bool(plan.chunks or plan.samples)
        return StepTiming(
            compute_s=self.costs.step(plan.shape) if computes else 0.0,
            save_s=self.costs.swap_out(len(plan.saves)),
            load_s=self.costs.swap_in(len(plan.loads)),
        )

    def _land(self) -> None:
        """The oldest step is done; the one behind it starts."""
        step = self.running.popleft()
        self.started_s = self.now_s
        self.busy_s += step.duration_s
        self.copy_s += step.duration_s - step.timing.compute_s
        tokens = tuple(_made_up_token(sample) for sample in step.plan.samples)
        for output in self.scheduler.commit(StepResult(step.plan, tokens, step.timing), self.now_s):
            self._take(output)

    def _take(self, output: Output) -> None:
        row = self.rows[output.session_id]
        if row.first_token_s is None:
            row.first_token_s = self.now_s
            row.ttft_final_s = self.now_s - row.last_chunk_s
            row.ttft_open_s = self.now_s - row.arrival_s
        self.events.append(EventRow(row.session, self.now_s, "token", size=1))
        if output.finish_reason is not None:
            row.done_s = self.now_s
            row.finish_reason = output.finish_reason
            _fold_stats(row, output.stats)
            if row.output_tokens > 1:
                row.tpot_s = (self.now_s - row.first_token_s) / (row.output_tokens - 1)
            self.events.append(EventRow(row.session, self.now_s, "done", note=output.finish_reason))

    def _arrive(self, session: PlannedSession) -> None:
        """The query arrives; nothing may have been sent yet."""
        row = SessionRow(session.session, session.question, session.arrival_s, session.complete_s)
        row.chunks = len(session.chunks_s)
        self.rows[session.session] = row
        self.events.append(EventRow(row.session, self.now_s, "arrival", session.arrival_s))
        self.events.extend(EventRow(row.session, at_s, "chunk") for at_s in session.chunks_s)

    def _send(self, session: PlannedSession, piece: Piece) -> None:
        """A piece of context reaches the scheduler."""
        row = self.rows[session.session]
        if row.error:
            return
        self.events.append(EventRow(row.session, self.now_s, piece.op, self.now_s, piece.size))
        try:
            self._apply(session, piece)
        except S2LError as error:
            row.error = f"{error.status}: {error}"
            row.done_s = self.now_s
            if piece.op != "open":
                self.scheduler.cancel(SessionId(session.session))
            self.events.append(EventRow(row.session, self.now_s, "error", note=row.error))

    def _apply(self, session: PlannedSession, piece: Piece) -> None:
        session_id = SessionId(session.session)
        tokens = _NO_TOKENS if piece.content is None else piece.content
        assert not isinstance(tokens, str)
        if piece.op == "open":
            params = SamplingParams(max_tokens=session.max_tokens)
            self.scheduler.open(session_id, tokens, params, self.now_s, final=piece.final)
        elif piece.op == "update":
            self.scheduler.update(session_id, tokens, self.now_s, keep=piece.keep_tokens, final=piece.final)
        else:
            self.scheduler.append(session_id, tokens, self.now_s, final=piece.final)

    def _result(self) -> Simulated:
        stuck = [row.session for row in self.rows.values() if row.done_s is None]
        if stuck:
            raise InternalError(
                f"at {self.now_s:.3f} s the scheduler has nothing to plan, but {len(stuck)} complete sessions wait for "
                f"their answer: {', '.join(stuck[:5])}; {self.scheduler.stats()}"
            )
        stats = self.scheduler.stats()
        rows = sorted(self.rows.values(), key=lambda row: row.arrival_s)
        measured = Measured(rows, sorted(self.events, key=lambda event: event.t_s), self.now_s)
        return Simulated(measured, TargetCounters(stats.steps, asdict(stats.preemptions)), self.busy_s, self.copy_s)


def _agenda(planned: Sequence[PlannedSession]) -> list[tuple[float, PlannedSession, Piece | None]]:
    """Everything that comes from outside, in order of time; None stands for the query's arrival."""
    agenda: list[tuple[float, PlannedSession, Piece | None]] = []
    for session in planned:
        agenda.append((session.arrival_s, session, None))
        agenda.extend((due_s, session, piece) for due_s, piece in session.pieces)
    return sorted(agenda, key=lambda item: item[0])


def _made_up_token(sample: Sample) -> SampledToken:
    """Any token will do, if it depends on session and position alone."""
    return SampledToken(_FIRST_TOKEN + (zlib.crc32(sample.session_id.encode()) + sample.position * _GOLDEN) % _VOCAB)


def _fold_stats(row: SessionRow, stats: SessionStats) -> None:
    for name, value in asdict(stats).items():
        if not name.startswith("ttft"):
            setattr(row, name, value)
    row.server_ttft_final_s, row.server_ttft_open_s = stats.ttft_final_s, stats.ttft_open_s
