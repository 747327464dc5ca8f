"""Phase 1 of planning: who should run, and how many tokens of each. Memory is no concern here."""

from collections.abc import Iterable
from typing import NamedTuple

from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.session import Session


class Wish(NamedTuple):
    """What a session should do in this step: run `tokens` tokens (0: only sample)."""

    session: Session
    tokens: int


def admit(ranked: Iterable[Session], decodes: int, config: SchedulerConfig) -> list[Wish]:
    """Shares the token budget among ranked sessions.

    Decodes take their one token each before any prompt gets a token, so a long prompt never holds up a running answer;
    what is left goes to prompts in rank order, cut to fit (chunked prefill).

    Args:
      ranked: sessions with work, best first.
      decodes: how many of them only have to decode.
      config: limits.

    Returns:
      Wishes in rank order, at most `max_batch`, together within the budget.
    """
    prompt_budget = config.token_budget - min(decodes, config.max_batch)
    wishes: list[Wish] = []
    for session in ranked:
        if len(wishes) == config.max_batch:
            break
        if session.is_decode:
            wishes.append(Wish(session, 1))
        elif session.remaining == 0:
            wishes.append(Wish(session, 0))
        elif prompt_budget:
            tokens = min(session.remaining, prompt_budget)
            prompt_budget -= tokens
            wishes.append(Wish(session, tokens))
    return wishes
