"""Replays sessions on a virtual clock, through the real scheduler: discrete events, no waiting, no accelerator."""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from math import inf

import numpy as np

from s2l_jax.core.costs import CostModel
from s2l_jax.core.errors import InternalError, InvalidArgument, S2LError
from s2l_jax.core.ids import SessionId
from s2l_jax.core.outcome import Output, SessionStats
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.scheduler import Scheduler
from workloads.replay.handoffs import Handoffs
from workloads.replay.rows import EventRow, SessionRow, StepRow
from workloads.replay.runner import Measured
from workloads.replay.schedule import PlannedSession
from workloads.replay.simulated_engine import LEAD_OF_ENGINE_LOOP, Lead, SimulatedEngine, StepSeconds
from workloads.replay.target import Piece, TargetCounters

_NO_TOKENS = np.empty(0, np.int32)

OnEvent = Callable[[EventRow], None]


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a simulated replay gave.

    Attributes:
      measured: sessions and events as a replay in real time would have seen them; `wall_s` is the virtual time.
      counters: of all schedulers together.
      steps: of each engine, in order.
    """

    measured: Measured
    counters: TargetCounters
    steps: dict[str, list[StepRow]]

    @property
    def busy_s(self) -> float:
        """Virtual seconds in which a step ran, of all engines together."""
        return sum(step.duration_s for steps in self.steps.values() for step in steps)

    @property
    def copy_s(self) -> float:
        """Of these, seconds in which nothing but page copies ran."""
        return sum(step.duration_s - step.compute_s for steps in self.steps.values() for step in steps)


@dataclass(frozen=True, slots=True)
class Server:
    """One engine, or two that share the work.

    Attributes:
      scheduler: a fresh one; of role `prefill` if there is a second engine.
      costs: how long steps and copies take; usually what the scheduler predicts with, but need not be.
      generate: scheduler of a second engine, to which sessions are handed once they have their first token.
      generate_costs: its costs.
      lead: when, while a step runs, the next one is planned.
      latency_s: how long a piece takes from the client to the scheduler (network, tokenization).
      step_s: how long steps of the first engine take, if that is known better than from `costs`.
      generate_step_s: the same of the second engine.
      exposed_copies: share of copies' time that adds to their step.
      generate_exposed_copies: the same of the second engine.
    """

    scheduler: Scheduler
    costs: CostModel
    generate: Scheduler | None = None
    generate_costs: CostModel | None = None
    lead: Lead = LEAD_OF_ENGINE_LOOP
    latency_s: float = 0.0
    step_s: StepSeconds | None = None
    generate_step_s: StepSeconds | None = None
    exposed_copies: float = 0.0
    generate_exposed_copies: float = 0.0

    def engines(self) -> list[SimulatedEngine]:
        """The engines, idle."""
        name = "engine" if self.generate is None else "prefill"
        first = SimulatedEngine(self.scheduler, self.costs, self.lead, name, self.step_s, self.exposed_copies)
        if self.generate is None:
            return [first]
        costs = self.generate_costs or self.costs
        exposed = self.generate_exposed_copies
        return [
            first,
            SimulatedEngine(self.generate, costs, self.lead, "generate", self.generate_step_s, exposed),
        ]


def simulate(planned: Sequence[PlannedSession], server: Server, on_event: OnEvent | None = None) -> Simulated:
    """Replays planned sessions, whose content is tokens, and returns once each is done or was refused.

    Args:
      planned: what is sent when.
      server: what answers.
      on_event: told of each event, in order of time.

    Raises:
      InvalidArgument: a session brings text; there is no tokenizer here.
      InternalError: a scheduler has sessions left but does not go on with them.
    """
    for session in planned:
        if any(isinstance(piece.content, str) for _, piece in session.pieces):
            raise InvalidArgument(
                f"session {session.session!r} brings text, but a simulation takes tokens only: "
                "s2l trace convert --tokenize MODEL turns the one into the other"
            )
    engines = server.engines()
    handoffs = Handoffs(engines[0], engines[1], server.costs) if len(engines) > 1 else None
    return _Simulation(engines, handoffs, on_event or _ignore).run(_agenda(planned, server.latency_s))


_Agenda = deque[tuple[float, PlannedSession, Piece | None]]


@dataclass(slots=True)
class _Simulation:
    """One run: the clock, the engines, and what has been seen. Sessions begin in the first engine."""

    engines: list[SimulatedEngine]
    handoffs: Handoffs | None
    on_event: OnEvent
    now_s: float = 0.0
    rows: dict[str, SessionRow] = field(default_factory=dict)
    events: list[EventRow] = field(default_factory=list)

    def run(self, arriving: _Agenda) -> Simulated:
        engines, handoffs = self.engines, self.handoffs
        while True:
            arrival_s = arriving[0][0] if arriving else inf
            engine = engines[0] if handoffs is None else min(engines, key=_due_s)
            due_s = engine.due_s
            handoff_s = inf if handoffs is None else handoffs.due_s
            self.now_s = min(arrival_s, due_s, handoff_s)
            if self.now_s == inf:
                break
            if handoffs is not None and handoff_s == self.now_s:
                handoffs.arrive(self.now_s)
            elif arrival_s == self.now_s:
                _, session, piece = arriving.popleft()
                if piece is None:
                    self._arrive(session)
                else:
                    self._send(session, piece)
                engines[0].wake(self.now_s)
            else:
                for output in engine.advance(self.now_s):
                    self._take(output, engine)
                if handoffs is not None:
                    handoffs.start(self.now_s)
        return self._result()

    def _log(self, event: EventRow) -> None:
        self.events.append(event)
        self.on_event(event)

    def _take(self, output: Output, engine: SimulatedEngine) -> None:
        row = self.rows[output.session_id]
        if row.first_token_s is None:
            row.first_token_s = self.now_s
            row.ttft_final_s = self.now_s - row.last_chunk_s
            row.ttft_open_s = self.now_s - row.arrival_s
        self._log(EventRow(row.session, self.now_s, "token", size=1))
        if output.finish_reason is not None and output.stats is not None:
            row.done_s = self.now_s
            row.finish_reason = output.finish_reason
            _fold_stats(row, output.stats)
            if row.output_tokens > 1:
                row.tpot_s = (self.now_s - row.first_token_s) / (row.output_tokens - 1)
            self._log(EventRow(row.session, self.now_s, "done", note=output.finish_reason))
        elif self.handoffs is not None and engine is self.engines[0]:
            self.handoffs.push(output.session_id)

    def _arrive(self, session: PlannedSession) -> None:
        """The query arrives; nothing may have been sent yet."""
        row = SessionRow(session.session, session.question, session.arrival_s, session.complete_s)
        row.chunks = len(session.chunks_s)
        self.rows[session.session] = row
        self._log(EventRow(row.session, self.now_s, "arrival", session.arrival_s))
        self.events.extend(EventRow(row.session, at_s, "chunk") for at_s in session.chunks_s)

    def _send(self, session: PlannedSession, piece: Piece) -> None:
        """A piece of context reaches the scheduler."""
        row = self.rows[session.session]
        if row.error:
            return
        self._log(EventRow(row.session, self.now_s, piece.op, self.now_s, piece.size))
        try:
            self._apply(session, piece)
        except S2LError as error:
            row.error = f"{error.status}: {error}"
            row.done_s = self.now_s
            if piece.op != "open":
                self.engines[0].scheduler.cancel(SessionId(session.session))
            self._log(EventRow(row.session, self.now_s, "error", note=row.error))

    def _apply(self, session: PlannedSession, piece: Piece) -> None:
        scheduler = self.engines[0].scheduler
        session_id = SessionId(session.session)
        tokens = _NO_TOKENS if piece.content is None else piece.content
        assert not isinstance(tokens, str)
        if piece.op == "open":
            params = SamplingParams(max_tokens=session.max_tokens)
            scheduler.open(session_id, tokens, params, self.now_s, final=piece.final)
        elif piece.op == "update":
            scheduler.update(session_id, tokens, self.now_s, keep=piece.keep_tokens, final=piece.final)
        else:
            scheduler.append(session_id, tokens, self.now_s, final=piece.final)

    def _result(self) -> Simulated:
        end_s = max((row.done_s or 0.0 for row in self.rows.values()), default=0.0)
        all_stats = [engine.scheduler.stats() for engine in self.engines]
        stuck = [row.session for row in self.rows.values() if row.done_s is None]
        if stuck:
            raise InternalError(
                f"after {end_s:.3f} s nothing is left to plan, but {len(stuck)} complete sessions wait for their "
                f"answer: {', '.join(stuck[:5])}; {all_stats}"
            )
        preemptions: Counter[str] = Counter()
        for stats in all_stats:
            preemptions.update(asdict(stats.preemptions))
        counters = TargetCounters(sum(stats.steps for stats in all_stats), dict(preemptions))
        rows = sorted(self.rows.values(), key=lambda row: row.arrival_s)
        measured = Measured(rows, sorted(self.events, key=lambda event: event.t_s), end_s)
        return Simulated(measured, counters, {engine.name: engine.steps for engine in self.engines})


def _due_s(engine: SimulatedEngine) -> float:
    return engine.due_s


def _agenda(planned: Sequence[PlannedSession], latency_s: float) -> _Agenda:
    """Everything that comes from outside, in order of time; None stands for the query's arrival."""
    agenda: list[tuple[float, PlannedSession, Piece | None]] = []
    for session in planned:
        agenda.append((session.arrival_s, session, None))
        agenda.extend((due_s + latency_s, session, piece) for due_s, piece in session.pieces)
    return deque(sorted(agenda, key=lambda item: item[0]))


def _fold_stats(row: SessionRow, stats: SessionStats) -> None:
    for name, value in asdict(stats).items():
        if not name.startswith("ttft"):
            setattr(row, name, value)
    row.server_ttft_final_s, row.server_ttft_open_s = stats.ttft_final_s, stats.ttft_open_s


def _ignore(event: EventRow) -> None:
    """Nobody watches."""
