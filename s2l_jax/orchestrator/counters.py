"""What an orchestrator has done since it started."""

from dataclasses import dataclass, field
from typing import Literal

from s2l_jax.core.outcome import SchedulerStats, SessionStats

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
class OrchestratorStats:
    """A snapshot.

    Attributes:
      counters: what has been done since the start.
      sessions_open: sessions open now.
      sessions_waiting: of these, those whose context is complete and whose first token is not there yet.
      scheduler: sessions by state, and blocks.
    """

    counters: Counters
    sessions_open: int
    sessions_waiting: int
    scheduler: SchedulerStats = field(repr=False)
