"""What a run of the law is made of: a device that can break, streams as their clients know them, steps under way."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from s2l_jax.core.ids import SessionId
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import StepPlan, StepResult
from s2l_jax.core.scheduler import Scheduler
from tests.fakes import Context


class Device(Protocol):
    """An engine, and ways to break it."""

    def submit(self, plan: StepPlan, contexts: Mapping[SessionId, Context] | None = None) -> None:
        """As the engine's; the contexts are what the sessions' KV must hold."""

    def collect(self) -> StepResult:
        """As the engine's."""

    def drop(self) -> None:
        """Fails all outstanding steps."""

    def lose_kv(self) -> None:
        """Fails them, and all KV on the device goes with them."""

    def inspect(self, scheduler: Scheduler, contexts: Mapping[SessionId, Context]) -> None:
        """Compares what is there with what the scheduler believes is there; all that it planned has been submitted."""


Reference = Callable[[Sequence[int], SamplingParams], list[int]]
"""Output of a fresh engine given a whole context at once, `max_tokens` of it or up to a stop token."""


@dataclass
class Stream:
    """What a client knows of its session.

    Attributes:
      steps_left: once the context is complete: within how many steps the first token must come.
    """

    id: SessionId
    tenant: str
    params: SamplingParams
    context: list[int]
    is_final: bool
    seq: int = 1
    output: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    versions: list[list[int]] = field(default_factory=list)
    steps_left: int = 0

    @property
    def work(self) -> int:
        """Steps that the session takes if it runs one token in each, and as many that only bring pages back."""
        return 2 * (len(self.context) + self.params.max_tokens)

    @property
    def kv(self) -> Context:
        """What its KV must hold, as far as tokens have been committed."""
        return Context(self.tenant, (*self.context, *self.output))

    @property
    def decode_start(self) -> int:
        """From this position on, running a token is decoding."""
        return len(self.context) + max(0, len(self.output) - 1)

    @property
    def is_waiting(self) -> bool:
        """True from the end of its context to its first token."""
        return self.is_final and not self.output


class Step(NamedTuple):
    """A plan, and what was true when it was made."""

    plan: StepPlan
    contexts: dict[SessionId, Context]
    streams: dict[SessionId, Stream]
