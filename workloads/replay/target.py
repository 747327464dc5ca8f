"""What a replay runs against."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from s2l_jax.core.params import SamplingParams
from serving.client.types import Event as Reply
from workloads.trace import Op


@dataclass(frozen=True, slots=True)
class Piece:
    """What is sent for one event: text, token ids (int32 `[n]`) or nothing; `final` if the context is complete then."""

    op: Op
    content: str | np.ndarray | None
    keep_tokens: int = 0
    keep_chars: int = 0
    final: bool = False

    @property
    def size(self) -> int:
        """Characters or tokens that it brings."""
        return 0 if self.content is None else len(self.content)

    @property
    def wire_content(self) -> str | list[int] | None:
        """The content as client and orchestrator take it."""
        return self.content.tolist() if isinstance(self.content, np.ndarray) else self.content


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """What a target serves.

    Attributes:
      model: name of the model.
      vocab_size: made-up tokens are drawn below it.
      policy: scheduling policy, empty if the target does not tell.
      version: of the server's software, empty likewise.
    """

    model: str
    vocab_size: int
    policy: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class TargetCounters:
    """Counters of a target since it started.

    Attributes:
      steps: engine steps.
      preemptions: evictions by kind.
    """

    steps: int = 0
    preemptions: dict[str, int] = field(default_factory=dict)


class Target(Protocol):
    """Something that answers sessions; used as an async context manager, from one event loop."""

    name: str

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def info(self) -> TargetInfo:
        """What is served here."""
        ...

    async def counters(self) -> TargetCounters:
        """Counters since the target started."""
        ...

    def run(self, session_id: str, params: SamplingParams, pieces: AsyncIterator[Piece]) -> AsyncIterator[Reply]:
        """Sends a session's pieces as they come and yields the replies, the last of them Done.

        Closing the iterator cancels the session.

        Raises:
          S2LError: the session failed.
        """
        ...
