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
      reused_tokens: tokens whose KV another session, or an earlier version of the context, had computed.
      restored_tokens: tokens whose KV came back from the host, or was still cached, after the session had lost it.
      recomputed_tokens: tokens computed again after the session had lost their KV.
      invalidated_tokens: computed tokens that updates threw away.
      preemptions: how often the session lost blocks.
      ttft_open_s: from open to the first token, None before it.
      ttft_final_s: from the event that completed the context to the first token, None before it.
    """

    prompt_tokens: int
    output_tokens: int
    computed_tokens: int
    reused_tokens: int
    restored_tokens: int
    recomputed_tokens: int
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
      stats: counters of the session if it ended with this token, else None.
    """

    session_id: SessionId
    token: SampledToken
    finish_reason: str | None
    stats: SessionStats | None


@dataclass(slots=True)
class Preemptions:
    """Counts of evictions by what was done to the victim, and of the copies that came of it.

    Attributes:
      swap: evictions that copied blocks to the host.
      recompute: evictions that threw blocks away, to be computed again.
      drop: evictions of blocks that are all on the host already.
      tail: of all evictions, those that left the victim a prefix.
      saved_blocks: blocks copied to the host by evictions.
      backup_blocks: blocks copied to the host ahead of evictions.
      loaded_blocks: blocks copied back.
      copied_blocks: blocks copied within the device, to be written without harm to whoever shares them.
    """

    swap: int = 0
    recompute: int = 0
    drop: int = 0
    tail: int = 0
    saved_blocks: int = 0
    backup_blocks: int = 0
    loaded_blocks: int = 0
    copied_blocks: int = 0


@dataclass(frozen=True, slots=True)
class HostStats:
    """Slots of the host pool.

    Attributes:
      total: size of the pool.
      free: slots that hold nothing.
      backups: slots whose content is on the device as well, or needed by no session now.
      swapped: slots with the last copy of something that a session needs.
    """

    total: int = 0
    free: int = 0
    backups: int = 0
    swapped: int = 0


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """A snapshot of the scheduler.

    Attributes:
      sessions: open sessions by state name.
      free_blocks: device blocks without content.
      cached_blocks: device blocks that nobody holds, whose content can be used again.
      held_blocks: device blocks that sessions hold.
      total_blocks: size of the pool.
      host: the host pool.
      preemptions: evictions since the start.
      steps: steps planned since the start.
      preempt_predicted_s: seconds that these evictions were reckoned to cost those who lost blocks.
    """

    sessions: dict[str, int]
    free_blocks: int
    cached_blocks: int
    held_blocks: int
    total_blocks: int
    steps: int
    host: HostStats = field(default_factory=HostStats)
    preemptions: Preemptions = field(default_factory=Preemptions)
    preempt_predicted_s: float = 0.0
