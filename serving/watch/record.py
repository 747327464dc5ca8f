"""What one session has been through, as seen from outside of the scheduler."""

from dataclasses import dataclass, field
from enum import StrEnum

from s2l_jax.core.outcome import SessionStats
from s2l_jax.orchestrator.observer import Op, Opening

MOST_CHUNKS = 128
MOST_PHASES = 96
MOST_ENGINES = 16


class Phase(StrEnum):
    """What a session is doing."""

    ARRIVING = "arriving"  # its context is incomplete, and none of it is being computed
    PREFILLING = "prefilling"  # some of its context is in a step
    WAITING = "waiting"  # its context is complete, no step has it, and there is no first token
    DECODING = "decoding"  # it has its first token


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """One event of the client.

    Attributes:
      op: what it was.
      at_s: when it came.
      context_tokens: length of the context after it.
      kept_tokens: longest common prefix with the context before it.
      invalidated_tokens: computed tokens that it threw away.
    """

    op: Op
    at_s: float
    context_tokens: int
    kept_tokens: int
    invalidated_tokens: int


@dataclass(slots=True, eq=False)
class SessionRecord:
    """One session's history, of bounded size. `Book` writes it, others read it once it has ended, or under its lock.

    Times are on the orchestrator's clock, None as long as they have not come.

    Attributes:
      opening: how it was opened.
      parent: `traceparent` and `tracestate` of the request that opened it, if it had any.
      phases: phase and begin of each, the first `MOST_PHASES` of them; later ones are left out but for the last kinds.
      chunks: the first `MOST_CHUNKS` events of the client.
      engines: index of the engine that served it, and from when; the first `MOST_ENGINES` changes.
      chunk_count: events of the client.
      context_tokens: length of the context.
      kept_tokens: sum over updates of what they left.
      invalidated_tokens: sum of computed tokens thrown away.
      output_tokens: tokens sampled.
      final_s: when the context was complete.
      service_s: the first step after that.
      first_token_s: when the first token came.
      last_token_s: when the newest token came.
      end_s: when the session ended.
      prefill_start_s: the first step that computed some of its context.
      prefill_s: seconds of steps that computed some of its context.
      prefill_steps: how many.
      prefill_tokens: tokens that they computed.
      recomputed_tokens: of these, tokens that had been computed before.
      served_s: seconds of all steps that it was in.
      in_flight: steps that it is in now.
      reach: the position up to which it has been computed at some time.
      reason: `stop`, `length`, `cancelled` or `error`; empty while it runs.
      status: the error's gRPC status, if it failed.
      stats: what the scheduler says of it; None if it failed.
    """

    opening: Opening
    parent: tuple[str, str] | None = None
    phases: list[tuple[Phase, float]] = field(default_factory=list)
    chunks: list[ChunkRecord] = field(default_factory=list)
    engines: list[tuple[int, float]] = field(default_factory=list)
    chunk_count: int = 0
    context_tokens: int = 0
    kept_tokens: int = 0
    invalidated_tokens: int = 0
    output_tokens: int = 0
    final_s: float | None = None
    service_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    end_s: float | None = None
    prefill_start_s: float | None = None
    prefill_s: float = 0.0
    prefill_steps: int = 0
    prefill_tokens: int = 0
    recomputed_tokens: int = 0
    served_s: float = 0.0
    in_flight: int = 0
    reach: int = 0
    reason: str = ""
    status: str = ""
    stats: SessionStats | None = None

    @property
    def phase(self) -> Phase:
        """What it is doing, or did last."""
        return self.phases[-1][0]

    @property
    def ttft_final_s(self) -> float | None:
        """From the completion of the context to the first token."""
        return _since(self.final_s, self.first_token_s)

    @property
    def ttft_open_s(self) -> float | None:
        """From the opening to the first token."""
        return _since(self.opening.now_s, self.first_token_s)

    def move(self, phase: Phase, now_s: float) -> None:
        """Begins a phase. Past `MOST_PHASES`, only decoding is noted as such: others lengthen what is there."""
        if len(self.phases) < MOST_PHASES or phase is Phase.DECODING:
            self.phases.append((phase, now_s))
        else:
            self.phases[-1] = (phase, self.phases[-1][1])

    def note_chunk(self, chunk: ChunkRecord) -> None:
        """An event of the client has been applied."""
        self.chunk_count += 1
        self.context_tokens = chunk.context_tokens
        self.invalidated_tokens += chunk.invalidated_tokens
        if chunk.op == "update":
            self.kept_tokens += chunk.kept_tokens
            self.reach = min(self.reach, chunk.kept_tokens)
        if len(self.chunks) < MOST_CHUNKS:
            self.chunks.append(chunk)

    def note_engine(self, engine: int, now_s: float) -> None:
        """A step of this engine serves it."""
        engines = self.engines
        if (not engines or engines[-1][0] != engine) and len(engines) < MOST_ENGINES:
            engines.append((engine, now_s))

    def note_computed(self, start: int, end: int) -> int:
        """A step computes positions `start .. end`; returns how many of them had been computed before."""
        again = max(0, min(end, self.reach) - start)
        self.reach = max(self.reach, end)
        return again


def _since(start_s: float | None, end_s: float | None) -> float | None:
    return None if start_s is None or end_s is None else max(0.0, end_s - start_s)
