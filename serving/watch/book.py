"""Keeps the records of all sessions of an orchestrator, as its observer."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from s2l_jax.core.errors import S2LError
from s2l_jax.core.outcome import Ack
from s2l_jax.core.plan import StepPlan, StepResult
from s2l_jax.core.records import fields_of
from s2l_jax.orchestrator.events import DoneEvent, FailedEvent, SinkEvent, TokenEvent
from s2l_jax.orchestrator.observer import Op, Opening
from serving.metrics.meters import Meters
from serving.tracing.context import TRACE_PARENT
from serving.watch.record import ChunkRecord, Phase, SessionRecord

type OnEnd = Callable[[SessionRecord], None]


@dataclass(slots=True)
class _Step:
    """A step on an engine.

    Attributes:
      plan: what it does.
      start_s: when it was handed over.
      prefills: sessions whose context it computes, with how many tokens.
      others: other sessions that it serves.
      again: tokens that it computes again.
    """

    plan: StepPlan
    start_s: float
    prefills: list[tuple[SessionRecord, int]]
    others: list[SessionRecord]
    again: int


@dataclass(frozen=True, slots=True)
class Counts:
    """Sessions open now.

    Attributes:
      phases: by what they do.
      complete: those whose context is complete.
    """

    phases: dict[Phase, int]
    complete: int


class Book:
    """The records of the sessions that are open, and of those that ended lately.

    `lock` guards records and counts. It is held for bookkeeping of some microseconds, and not taken at all for a token
    that is not a session's first or last.

    Args:
      meters: are told what is observed.
      on_end: called with each record of a session that has ended, on the thread that ended it; must be quick.
      most_ended: records of ended sessions that are kept.
    """

    def __init__(self, meters: Meters, on_end: Sequence[OnEnd] = (), most_ended: int = 1000) -> None:
        self.lock = threading.Lock()
        self.meters = meters
        self.ended: deque[SessionRecord] = deque(maxlen=most_ended)
        self.open: dict[str, SessionRecord] = {}
        self._on_end = tuple(on_end)
        self._phases = dict.fromkeys(Phase, 0)
        self._complete = 0
        self._steps: dict[int, deque[_Step]] = {}
        self._free_s: dict[int, float] = {}

    # Observer

    def opening(self, opening: Opening) -> "SessionNotes":
        """Begins a record. It takes the name's place when the session is open, for another one may have it still."""
        record = SessionRecord(opening, TRACE_PARENT.get())
        return SessionNotes(self, record)

    def submitted(self, plan: StepPlan, now_s: float, engine: int) -> None:
        """Notes whom a step serves."""
        step = _Step(plan, now_s, [], [], 0)
        with self.lock:
            for session_id, _, start, tokens, _ in fields_of(plan.chunks):
                record = self.open.get(session_id)
                if record is None:
                    continue
                record.in_flight += 1
                record.note_engine(engine, now_s)
                again = record.note_computed(start, start + len(tokens))
                if record.first_token_s is None:
                    step.prefills.append((record, len(tokens)))
                    record.recomputed_tokens += again
                    if record.prefill_start_s is None:
                        record.prefill_start_s = now_s
                    if record.phase is not Phase.PREFILLING:
                        self._move(record, Phase.PREFILLING, now_s)
                else:
                    step.others.append(record)
                step.again += again
                if record.service_s is None:
                    self._serve(record, now_s)
            chunked = {session_id for session_id, *_ in fields_of(plan.chunks)}
            for session_id, *_ in fields_of(plan.samples):
                record = self.open.get(session_id)
                if record is not None and session_id not in chunked:
                    record.in_flight += 1
                    record.note_engine(engine, now_s)
                    step.others.append(record)
                    self._serve(record, now_s)
        self._steps.setdefault(engine, deque()).append(step)

    def collected(self, result: StepResult, now_s: float, engine: int) -> None:
        """Accounts for a step's time."""
        steps = self._steps.get(engine, deque())
        while steps and steps[0].plan is not result.plan:
            self._drop(steps.popleft(), now_s)
        if not steps:
            return
        step = steps.popleft()
        took_s = max(0.0, now_s - max(step.start_s, self._free_s.get(engine, 0.0)))
        self._free_s[engine] = now_s
        tokens, prefilled = result.plan.tokens, sum(count for _, count in step.prefills)
        cost_s = result.timing.save_s + result.timing.load_s
        if step.again:
            cost_s += took_s * step.again / tokens
        with self.lock:
            for record, count in step.prefills:
                record.prefill_s += took_s
                record.prefill_steps += 1
                record.prefill_tokens += count
                self._leave(record, took_s, now_s)
            for record in step.others:
                self._leave(record, took_s, now_s)
            if cost_s > 0:
                self.meters.preempted(cost_s)
        again = min(step.again, prefilled)
        self.meters.step(engine, took_s, tokens, prefilled - again, again)

    # Views

    def counts(self) -> Counts:
        """How many sessions do what."""
        with self.lock:
            return Counts(dict(self._phases), self._complete)

    def tenant_of(self, session_id: str) -> str:
        """Whose a session is, empty if it is not open."""
        record = self.open.get(session_id)
        return "" if record is None else record.opening.tenant

    # Of `SessionNotes`

    def enter(self, record: SessionRecord) -> None:
        """A session has been opened; its record takes the name's place."""
        with self.lock:
            if self.open.get(record.opening.session_id) is record or record.end_s is not None:
                return
            self.open[record.opening.session_id] = record
            self._phases[Phase.ARRIVING] += 1
            record.phases.append((Phase.ARRIVING, record.opening.now_s))

    def complete(self, record: SessionRecord, now_s: float) -> None:
        """A session's context is complete."""
        with self.lock:
            record.final_s = now_s
            if record.end_s is None:
                self._complete += 1
                if record.phase is Phase.ARRIVING:
                    self._move(record, Phase.WAITING, now_s)
        self.meters.complete(record)
        if record.first_token_s is not None:
            self.meters.first_token(record)

    def first_token(self, record: SessionRecord, now_s: float) -> None:
        """A session has its first token."""
        with self.lock:
            record.first_token_s = now_s
            self._move(record, Phase.DECODING, now_s)
        self.meters.first_token(record)

    def end(self, record: SessionRecord, now_s: float) -> None:
        """A session has ended."""
        with self.lock:
            record.end_s = now_s
            name = record.opening.session_id
            if self.open.get(name) is record:
                del self.open[name]
            self._phases[record.phase] -= 1
            self._complete -= record.final_s is not None
            self.ended.append(record)
        self.meters.ended(record)
        for call in self._on_end:
            call(record)

    def _drop(self, step: _Step, now_s: float) -> None:
        """A step has failed, and will not come home."""
        with self.lock:
            for record in (*(record for record, _ in step.prefills), *step.others):
                self._leave(record, 0.0, now_s)

    def _serve(self, record: SessionRecord, now_s: float) -> None:
        if record.final_s is not None and record.service_s is None:
            record.service_s = now_s

    def _leave(self, record: SessionRecord, took_s: float, now_s: float) -> None:
        record.in_flight -= 1
        if record.final_s is not None:
            record.served_s += took_s
        if record.in_flight == 0 and record.phase is Phase.PREFILLING and record.end_s is None:
            self._move(record, Phase.ARRIVING if record.final_s is None else Phase.WAITING, now_s)

    def _move(self, record: SessionRecord, phase: Phase, now_s: float) -> None:
        self._phases[record.phase] -= 1
        self._phases[phase] += 1
        record.move(phase, now_s)


class SessionNotes:
    """Writes one record: the watch of its session."""

    def __init__(self, book: Book, record: SessionRecord) -> None:
        self._book = book
        self._record = record

    def changed(self, op: Op, ack: Ack, *, final: bool, now_s: float) -> None:
        """Notes an event of the client."""
        record, book = self._record, self._book
        if op == "open":
            book.enter(record)
        chunk = ChunkRecord(op, now_s, ack.context_tokens, ack.kept_tokens, ack.invalidated_tokens)
        record.note_chunk(chunk)
        book.meters.chunk(chunk)
        if final:
            book.complete(record, now_s)

    def refused(self, error: S2LError) -> None:
        """Counts it."""
        self._book.meters.refused(error.status)

    def emitted(self, event: SinkEvent, now_s: float) -> None:
        """Notes output, and the end."""
        record = self._record
        if isinstance(event, TokenEvent):
            record.output_tokens += len(event.ids)
            last_s = record.last_token_s
            record.last_token_s = now_s
            if last_s is not None:
                self._book.meters.token(now_s - last_s)
            else:
                self._book.enter(record)
                self._book.first_token(record, now_s)
            return
        if isinstance(event, DoneEvent):
            record.reason, record.stats = event.finish_reason, event.stats
        elif isinstance(event, FailedEvent):
            record.reason, record.status = "error", event.error.status
        else:
            return
        self._book.enter(record)
        self._book.end(record, now_s)
