"""Phase 1 of planning: who should run, and how many tokens of each.

Memory matters here only as feasibility: nobody is started who could not be finished.
"""

from collections.abc import Iterable
from typing import NamedTuple

from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.costs import NO_WORK, CostModel, StepShape
from s2l_jax.core.policy import Policy
from s2l_jax.core.queues import Queues
from s2l_jax.core.session import Session


class Admission(NamedTuple):
    """Who should run.

    Attributes:
      decodes: each runs the token it sampled last.
      ready: each only samples its first token.
      prompts: those that may compute, best first.
      budget_tokens: what prompts may compute together.
      room: how many of `ready` and `prompts` the batch still takes.
      spare_blocks: of the blocks available, what decodes do not need soon; incomplete sessions may take no more.
    """

    decodes: list[Session]
    ready: list[Session]
    prompts: list[Session]
    budget_tokens: int
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

    def admit(self, queues: Queues, available_blocks: int) -> Admission:
        """Chooses among all sessions with work."""
        config = self._config
        decodes = self._best(queues.decodes.values())
        ready = list(queues.ready.values())
        room = config.max_batch - len(decodes)
        budget = config.token_budget - len(decodes)
        prompts: list[Session] = []
        if not self._policy.streams_last:
            prompts = self._rank([*queues.prompts.values(), *queues.streams.values()])
        elif queues.prompts:
            prompts = self._feasible(self._rank(queues.prompts.values()), decodes)
            if decodes:
                budget = self._bound(budget, config.decode_gap_s, prompts[0], decodes)
        elif queues.streams and not ready:
            prompts = self._rank(queues.streams.values())
            limit_s = min(config.partial_step_s, config.decode_gap_s) if decodes else config.partial_step_s
            budget = self._bound(budget, limit_s, prompts[0], decodes)
        return Admission(decodes, ready, prompts, budget, room, available_blocks - len(decodes))

    def _feasible(self, ranked: list[Session], decodes: list[Session]) -> list[Session]:
        """As many of the first complete sessions as the pool could hold to their first token; one at least."""
        config = self._config
        free = config.num_blocks - sum(len(session.blocks) for session in decodes)
        for index, session in enumerate(ranked):
            free -= config.blocks_for(session.length + 1)
            if free < 0:
                return ranked[: max(1, index)]
            if index == config.max_batch:
                break
        return ranked

    def _bound(self, budget: int, limit_s: float, first: Session, decodes: list[Session]) -> int:
        """Cuts a budget so that the step keeps to a time; the context is that of the first prompt."""
        if decodes:
            contexts = sum(session.computed for session in decodes)
            shape = StepShape(decodes=len(decodes), decode_context_tokens=contexts)
            limit_s -= self._costs.step(shape) - self._costs.step(NO_WORK)
        tokens = self._costs.tokens_within(limit_s, first.computed)
        return min(budget, max(tokens, self._config.min_chunk_tokens))

    def _best(self, decodes: Iterable[Session]) -> list[Session]:
        chosen = list(decodes)
        if len(chosen) > self._config.max_batch:
            chosen = self._rank(chosen)[: self._config.max_batch]
        return chosen

    def _rank(self, sessions: Iterable[Session]) -> list[Session]:
        return sorted(sessions, key=self._policy.rank)
