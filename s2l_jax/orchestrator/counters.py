"""What an orchestrator has done since it started."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from s2l_jax.core.outcome import HostStats, Preemptions, SchedulerStats, SessionStats
from s2l_jax.orchestrator.config import Role
from s2l_jax.orchestrator.member import Member
from s2l_jax.orchestrator.transfers import Transfers

type Ending = Literal["completed", "failed", "cancelled"]


@dataclass(slots=True)
class Counters:
    """Counts since the start. Tokens are those of sessions that have ended, except output tokens.

    Attributes:
      sessions_opened: sessions accepted.
      sessions_refused: sessions turned away for lack of room.
      sessions_completed: sessions that ended with `stop` or `length`.
      sessions_failed: sessions ended by an error, a time-out or a drain.
      sessions_cancelled: sessions ended by their clients.
      tokens_prompt: lengths of contexts.
      tokens_computed: prompt tokens computed, recomputation included.
      tokens_reused: prompt tokens taken from KV that was there already.
      tokens_invalidated: computed tokens that updates threw away.
      tokens_output: tokens sampled.
      preemptions: how often sessions lost blocks.
      steps: engine steps that succeeded.
      step_tokens: tokens that these ran through the model.
      step_failures: engine steps that failed, or were lost with one that did.
      handoffs: sessions that have gone on in another engine after their first token.
      handoff_blocks: blocks of KV that were brought there after the first token.
      ahead_blocks: blocks of KV that left for there before it, whatever became of them.
      handoff_failures: moves that failed on the way; the session was computed again.
      sessions_resumed: sessions computed again from their tokens, since an engine or its KV was lost, or a move failed.
    """

    sessions_opened: int = 0
    sessions_refused: int = 0
    sessions_completed: int = 0
    sessions_failed: int = 0
    sessions_cancelled: int = 0
    tokens_prompt: int = 0
    tokens_computed: int = 0
    tokens_reused: int = 0
    tokens_invalidated: int = 0
    tokens_output: int = 0
    preemptions: int = 0
    steps: int = 0
    step_tokens: int = 0
    step_failures: int = 0
    handoffs: int = 0
    handoff_blocks: int = 0
    ahead_blocks: int = 0
    handoff_failures: int = 0
    sessions_resumed: int = 0

    def count_end(self, ending: Ending, stats: SessionStats) -> None:
        """Adds up a session that has ended."""
        match ending:
            case "completed":
                self.sessions_completed += 1
            case "failed":
                self.sessions_failed += 1
            case "cancelled":
                self.sessions_cancelled += 1
        self.tokens_prompt += stats.prompt_tokens
        self.tokens_computed += stats.computed_tokens
        self.tokens_reused += stats.reused_tokens
        self.tokens_invalidated += stats.invalidated_tokens
        self.preemptions += stats.preemptions


@dataclass(frozen=True, slots=True)
class EngineStats:
    """One engine.

    Attributes:
      role: `prefill`, `generate` or `both`.
      failure: why it does nothing any more; None if it works.
      handoffs_waiting: sessions with a first token that are still here, or have pages here to be fetched.
      scheduler: its sessions by state, and its blocks.
    """

    role: Role
    failure: str | None
    handoffs_waiting: int
    scheduler: SchedulerStats = field(repr=False)


@dataclass(frozen=True, slots=True)
class OrchestratorStats:
    """A snapshot.

    Attributes:
      counters: what has been done since the start.
      sessions_open: sessions open now.
      sessions_waiting: of these, those whose context is complete and whose first token is not there yet.
      scheduler: sessions by state, and blocks, of all engines that work together; a session whose KV moves is in two.
      engines: each of them, in the order in which they were given.
    """

    counters: Counters
    sessions_open: int
    sessions_waiting: int
    scheduler: SchedulerStats = field(repr=False)
    engines: tuple[EngineStats, ...] = ()


def engine_stats(member: Member, transfers: Transfers) -> EngineStats:
    """A snapshot of one engine."""
    return EngineStats(member.role, member.failure, transfers.count_from(member), member.scheduler.stats())


def sum_of(parts: Sequence[SchedulerStats]) -> SchedulerStats:
    """Several schedulers taken together."""
    if len(parts) == 1:
        return parts[0]
    sessions: Counter[str] = Counter()
    preemptions: Counter[str] = Counter()
    host: Counter[str] = Counter()
    for part in parts:
        sessions.update(part.sessions)
        preemptions.update(asdict(part.preemptions))
        host.update(asdict(part.host))
    return SchedulerStats(
        sessions=dict(sessions),
        free_blocks=sum(part.free_blocks for part in parts),
        cached_blocks=sum(part.cached_blocks for part in parts),
        held_blocks=sum(part.held_blocks for part in parts),
        total_blocks=sum(part.total_blocks for part in parts),
        steps=sum(part.steps for part in parts),
        host=HostStats(**host),
        preemptions=Preemptions(**preemptions),
        preempt_predicted_s=sum(part.preempt_predicted_s for part in parts),
    )
