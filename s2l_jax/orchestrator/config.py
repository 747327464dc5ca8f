"""Configuration of the orchestrator."""

from dataclasses import dataclass
from typing import Literal

from s2l_jax.core.errors import InvalidArgument

type Role = Literal["both", "prefill", "generate"]
"""What an engine does: compute contexts and sample the first token, sample the others, or all of it."""


@dataclass(frozen=True, slots=True)
class OrchestratorConfig:
    """Limits that protect a server from its clients.

    Attributes:
      max_sessions: sessions open at once; the scheduler's own limit holds as well.
      max_waiting: sessions whose context is complete and whose first token is not there yet; beyond that, no session
        is opened.
      default_max_tokens: output tokens of a session that names no sampling parameters.
      limit_max_tokens: the most output tokens a session may ask for.
      idle_timeout_s: a stream without an event for this long is ended.
      session_deadline_s: a session open for this long is ended.
      retry_after_s: retry hint as long as too few sessions have ended to estimate one.
      step_timeout_s: an engine that has ended no step for this long is given up, unless the step was predicted to take
        more than a tenth of it.
      send_ahead: full blocks of a context leave for the engine that will generate while the rest is still computed.
      progress_interval_s: time between two progress events of one session, at least.

    Raises:
      InvalidArgument: a value is out of range.
    """

    max_sessions: int = 256
    max_waiting: int = 256
    default_max_tokens: int = 256
    limit_max_tokens: int = 4096
    idle_timeout_s: float = 60.0
    session_deadline_s: float = 3600.0
    retry_after_s: float = 1.0
    step_timeout_s: float = 120.0
    progress_interval_s: float = 0.25
    send_ahead: bool = True

    def __post_init__(self) -> None:
        for name in ("max_sessions", "max_waiting", "default_max_tokens", "limit_max_tokens"):
            if getattr(self, name) < 1:
                raise InvalidArgument(f"{name} is {getattr(self, name)}, but must be at least 1")
        for name in ("idle_timeout_s", "session_deadline_s", "retry_after_s", "step_timeout_s"):
            if not getattr(self, name) > 0:
                raise InvalidArgument(f"{name} is {getattr(self, name)}, but must be above 0 seconds")
        if not self.progress_interval_s >= 0:
            raise InvalidArgument(f"progress_interval_s is {self.progress_interval_s}, but must be 0 seconds or more")
        if self.default_max_tokens > self.limit_max_tokens:
            raise InvalidArgument(
                f"default_max_tokens ({self.default_max_tokens}) is above limit_max_tokens ({self.limit_max_tokens})"
            )
