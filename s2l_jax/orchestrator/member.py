"""An engine of a deployment: what it is made of, and what is kept about it while it runs."""

import threading
from dataclasses import dataclass

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.core.scheduler import Scheduler
from s2l_jax.engine.protocol import Engine, PageAccess
from s2l_jax.orchestrator.config import Role


@dataclass(frozen=True, slots=True)
class EngineUnit:
    """An engine and its scheduler, for an orchestrator to run.

    Attributes:
      engine: executes steps.
      scheduler: fresh, and of the same sizes; its own role is `prefill` if and only if `role` is.
      role: `prefill` computes contexts and samples the first token, `generate` samples the others, `both` does all.
      pages: reaches the engine's pages; needed where sessions are handed over.

    Raises:
      InvalidArgument: roles do not fit, or `pages` is missing.
    """

    engine: Engine
    scheduler: Scheduler
    role: Role = "both"
    pages: PageAccess | None = None

    def __post_init__(self) -> None:
        if (self.role == "prefill") != (self.scheduler.config.role == "prefill"):
            raise InvalidArgument(f"an engine of role {self.role} has a scheduler of role {self.scheduler.config.role}")
        if self.role != "both" and self.pages is None:
            raise InvalidArgument(f"an engine of role {self.role} needs access to its pages, to hand sessions over")


class Member:
    """An engine among others.

    Everything but `engine` and `pages` is guarded by the registry's lock. The engine belongs to its thread, and so do
    `gather` and `scatter` of its pages.

    Attributes:
      index: rank among the members.
      role: see `EngineUnit`.
      engine: executes steps.
      scheduler: of this engine.
      work: notified when the engine's thread should look for work.
      failure: why it does nothing any more, None as long as it does.
    """

    def __init__(self, unit: EngineUnit, index: int, lock: threading.Lock) -> None:
        self.index = index
        self.role = unit.role
        self.engine = unit.engine
        self.scheduler = unit.scheduler
        self.work = threading.Condition(lock)
        self.failure: str | None = None
        self._pages = unit.pages

    @property
    def pages(self) -> PageAccess:
        """Access to its pages; there is one wherever sessions are handed over."""
        assert self._pages is not None
        return self._pages

    @property
    def is_alive(self) -> bool:
        """True as long as it executes steps."""
        return self.failure is None

    def __str__(self) -> str:
        return f"{self.index} ({self.role})"
