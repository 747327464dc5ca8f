"""Phase 1 of planning: who should run, and how many tokens of each.

Memory matters here only as feasibility: nobody is started who could not be finished.
"""

import math
from collections.abc import Iterable
from operator import attrgetter
from typing import Any, NamedTuple

from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.costs import NO_WORK, CostModel, StepShape
from s2l_jax.core.policy import Policy
from s2l_jax.core.queues import Queues
from s2l_jax.core.session import Session

_COMPUTED, _CAPACITY = attrgetter("computed"), attrgetter("capacity")
_LEAST_EMPTY_STEPS = 6
_new: Any = tuple.__new__  # makes a named tuple in half the time of its own constructor


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
        self._most_blocks = config.max_model_len // config.block_size + 1  # of one session

    def admit(self, queues: Queues, available_blocks: int) -> Admission:
        """Chooses among all sessions with work."""
        config, policy = self._config, self._policy
        decodes = self._best(queues.decodes.values())
        ready = list(queues.ready.values())
        room = config.max_batch - len(decodes)
        budget_s = math.inf
        prompts: list[Session] = []
        if not policy.streams_last:
            prompts = self._rank([*queues.prompts.values(), *queues.streams.values()])
        elif queues.prompts:
            contexts = sum(map(_COMPUTED, decodes))
            prompts = self._rank(queues.prompts.values())
            if (len(prompts) + len(decodes)) * self._most_blocks > config.num_blocks:
                prompts = self._feasible(prompts, decodes, contexts)
            if decodes or any(session.first_token_s is not None for session in prompts[:room]):
                budget_s = config.decode_gap_s - self._decoding_s(len(decodes), contexts)
        elif queues.streams and not ready:
            prompts = self._rank(queues.streams.values())
            decoding_s = self._decoding_s(len(decodes), sum(map(_COMPUTED, decodes)))
            budget_s = min(self._short_step_s - self._empty_step_s, config.decode_gap_s - decoding_s)
        budget = config.token_budget - len(decodes)
        return _new(Admission, (decodes, ready, prompts, budget, budget_s, room, available_blocks - len(decodes)))

    def _feasible(self, ranked: list[Session], decodes: list[Session], contexts: int) -> list[Session]:
        """As many of the first complete sessions as the pool could hold to their first token; one at least."""
        config = self._config
        size = config.block_size
        needs = [-(-(max(s.prompt_tokens, s.lost) + 1) // size) for s in ranked[: config.max_batch + 1]]
        if sum(needs) + contexts // size + len(decodes) <= config.num_blocks:  # decodes hold no more than that
            return ranked
        free = config.num_blocks - sum(map(_CAPACITY, decodes)) // size
        for index, need in enumerate(needs):
            free -= need
            if free < 0:
                return ranked[: max(1, index)]
        return ranked

    def _decoding_s(self, decodes: int, contexts: int) -> float:
        """How long a step takes that only decodes."""
        return self._costs.step(_new(StepShape, (0, 0.0, decodes, contexts)))

    def _best(self, decodes: Iterable[Session]) -> list[Session]:
        chosen = list(decodes)
        if len(chosen) > self._config.max_batch:
            chosen = self._rank(chosen)[: self._config.max_batch]
        return chosen

    def _rank(self, sessions: Iterable[Session]) -> list[Session]:
        return sorted(sessions, key=self._policy.sort_key())
