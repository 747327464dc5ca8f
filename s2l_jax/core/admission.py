"""Phase 1 of planning: who should run, and how many tokens of each.

Memory matters here only as feasibility: nobody is started who could not be finished.
"""

import math
from collections.abc import Iterable
from operator import attrgetter
from typing import NamedTuple

from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.costs import NO_WORK, CostModel, StepShape
from s2l_jax.core.policy import Policy
from s2l_jax.core.queues import Queues
from s2l_jax.core.session import Session

_COMPUTED, _CAPACITY = attrgetter("computed"), attrgetter("capacity")
_LEAST_EMPTY_STEPS = 6


class Admission(NamedTuple):
    """Who should run.

    Attributes:
      decodes: each runs the token it sampled last.
      ready: each only samples its first token.
      prompts: those that may compute, best first.
      budget_tokens: what prompts may compute together.
      budget_s: how long that may take, or at least `min_chunk_tokens` of the first one.
      room: how many of `ready` and `prompts` the batch still takes.
      spare_blocks: of the blocks available, what decodes do not need soon; incomplete sessions may take no more.
    """

    decodes: list[Session]
    ready: list[Session]
    prompts: list[Session]
    budget_tokens: int
    budget_s: float
    room: int
    spare_blocks: int


class Admitter:
    """Shares token budget and batch among sessions with work.

    Decodes take their one token each before any prompt gets a token, so a long prompt never holds up a running answer.
    """

    def __init__(self, config: SchedulerConfig, policy: Policy, costs: CostModel) -> None:
        self._config = config
        self._policy = policy
        self._costs = costs
        self._empty_step_s = costs.step(NO_WORK)
        self._short_step_s = max(config.partial_step_s, _LEAST_EMPTY_STEPS * self._empty_step_s)

    def admit(self, queues: Queues, available_blocks: int) -> Admission:
        """Chooses among all sessions with work."""
        config = self._config
        decodes = self._best(queues.decodes.values())
        ready = list(queues.ready.values())
        room = config.max_batch - len(decodes)
        budget = config.token_budget - len(decodes)
        budget_s = math.inf
        prompts: list[Session] = []
        if not self._policy.streams_last:
            prompts = self._rank([*queues.prompts.values(), *queues.streams.values()])
        elif queues.prompts:
            prompts = self._feasible(self._rank(queues.prompts.values()), decodes)
            if decodes or any(session.first_token_s is not None for session in prompts[:room]):
                budget_s = config.decode_gap_s - self._decoding_s(decodes)
        elif queues.streams and not ready:
            prompts = self._rank(queues.streams.values())
            decoding_s = self._decoding_s(decodes)
            budget_s = min(self._short_step_s - self._empty_step_s, config.decode_gap_s - decoding_s)
        return Admission(decodes, ready, prompts, budget, budget_s, room, available_blocks - len(decodes))

    def _feasible(self, ranked: list[Session], decodes: list[Session]) -> list[Session]:
        """As many of the first complete sessions as the pool could hold to their first token; one at least."""
        config = self._config
        size = config.block_size
        free = config.num_blocks - sum(map(_CAPACITY, decodes)) // size
        for index, session in enumerate(ranked):
            free -= -(-(max(session.prompt_tokens, session.lost) + 1) // size)
            if free < 0:
                return ranked[: max(1, index)]
            if index == config.max_batch:
                break
        return ranked

    def _decoding_s(self, decodes: list[Session]) -> float:
        """How long a step takes that only decodes."""
        contexts = sum(map(_COMPUTED, decodes))
        return self._costs.step(StepShape(decodes=len(decodes), decode_context_tokens=contexts))

    def _best(self, decodes: Iterable[Session]) -> list[Session]:
        chosen = list(decodes)
        if len(chosen) > self._config.max_batch:
            chosen = self._rank(chosen)[: self._config.max_batch]
        return chosen

    def _rank(self, sessions: Iterable[Session]) -> list[Session]:
        return sorted(sessions, key=self._policy.rank)
