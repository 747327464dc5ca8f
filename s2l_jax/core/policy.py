"""Policies: who should run first. A policy is one function and one line in `POLICIES`."""

from typing import Protocol

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.core.session import Session


class Policy(Protocol):
    """Ranks sessions: the smaller the key, the earlier the session gets tokens and the later it loses blocks.

    Keys of two sessions are never equal, so ranks are a total order: the first session can take memory from every other
    one and always gets on.
    """

    def __call__(self, session: Session) -> tuple[float, ...]:
        """The session's key."""
        ...


def fcfs(session: Session) -> tuple[float, ...]:
    """Complete sessions by arrival, then partial ones by arrival (Stream2LLM artifact, `fcfs`)."""
    return (not session.is_final, session.arrival)


def lcas(session: Session) -> tuple[float, ...]:
    """Complete sessions by arrival of their last chunk, then partial ones likewise (Stream2LLM artifact, `lcas`)."""
    return (not session.is_final, session.last_event_s, session.arrival)


POLICIES: dict[str, Policy] = {"fcfs": fcfs, "lcas": lcas}


def find_policy(name: str) -> Policy:
    """The policy of this name.

    Raises:
      InvalidArgument: there is none; the message lists those there are.
    """
    if name not in POLICIES:
        raise InvalidArgument(f"policy is {name!r}, but must be one of {', '.join(sorted(POLICIES))}")
    return POLICIES[name]
