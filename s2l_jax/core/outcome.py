"""What the scheduler answers: acknowledgements, outputs and counters."""

from dataclasses import dataclass, field

from s2l_jax.core.ids import SessionId
from s2l_jax.core.plan import SampledToken


@dataclass(frozen=True, slots=True)
class Ack:
    """Answers an event.

    Attributes:
      session_id: whose event it was.
      seq: the event's sequence number.
      context_tokens: length of the context after the event.
      kept_tokens: longest common prefix with the context before it.
      invalidated_tokens: computed tokens that the event threw away.
      duplicate: the event had been applied before; nothing changed.
    """

    session_id: SessionId
    seq: int
    context_tokens: int
    kept_tokens: int
    invalidated_tokens: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class SessionStats:
    """What one session cost and how long it took.

    Attributes:
      prompt_tokens: length of the context.
      output_tokens: tokens sampled.
      computed_tokens: prompt tokens ever computed, recomputation included.
      reused_tokens: prompt tokens taken from KV that another session, or an earlier version of the context, computed.
      invalidated_tokens: computed tokens that updates threw away.
      preemptions: how often the session lost blocks.
      ttft_open_s: from open to the first token, None before it.
      ttft_final_s: from the event that completed the context to the first token, None before it.
    """

    prompt_tokens: int
    output_tokens: int
    computed_tokens: int
    reused_tokens: int
    invalidated_tokens: int
    preemptions: int
    ttft_open_s: float | None
    ttft_final_s: float | None


@dataclass(frozen=True, slots=True)
class Output:
    """One sampled token of one session.

    Attributes:
      session_id: whose token it is.
      token: the token.
      finish_reason: `stop`, `length`, or `error` if the session ended with this token, else None.
      stats: counters of the session so far.
    """

    session_id: SessionId
    token: SampledToken
    finish_reason: str | None
    stats: SessionStats


@dataclass(slots=True)
class Preemptions:
    """Counts of evictions by what was done to the victim.

    Attributes:
      swap: blocks copied to host.
      recompute: blocks thrown away, to be computed again.
      drop: blocks thrown away that a copy backs.
      tail: of all evictions, those that left the victim a prefix.
    """

    swap: int = 0
    recompute: int = 0
    drop: int = 0
    tail: int = 0


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """A snapshot of the scheduler.

    Attributes:
      sessions: open sessions by state name.
      free_blocks: device blocks that nobody holds.
      held_blocks: device blocks that sessions hold.
      total_blocks: size of the pool.
      preemptions: evictions since the start.
      steps: steps planned since the start.
    """

    sessions: dict[str, int]
    free_blocks: int
    held_blocks: int
    total_blocks: int
    steps: int
    preemptions: Preemptions = field(default_factory=Preemptions)
