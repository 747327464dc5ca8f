"""Policies: who should run first. A policy is one function and one line in `POLICIES`.

The first four order sessions exactly as the artifact of Stream2LLM does (design: "Workloads and replay"), so that
results compare; sessions without work go last there, which here is no policy's concern. `s2l` is ours:

- Complete sessions go before incomplete ones: only they have a user who waits for nothing but this server.
- Among complete sessions, the one with the earliest *due time* goes first: the time its context was complete, plus
  `STRETCH` times the seconds its remaining work takes. Short work overtakes long work (for the median), but only by so
  much (for the tail): long work is never overtaken by anything that came later than `STRETCH` times its own length, so
  nobody starves. A due time does not change with the clock, so ranks are stable and evictions do not go in a circle.
- A deadline that can still be met makes a session due no later than its last moment to start. One that cannot be met
  any more counts for nothing: it would only make others late as well.
- Priorities are strict. A tenant that has had more than its share of computing lately is due later by the excess.
- Incomplete sessions are computed ahead in the order of their arrival: what arrived first is likely to be complete
  first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from s2l_jax.core.costs import CostModel
from s2l_jax.core.errors import InvalidArgument
from s2l_jax.core.session import Session
from s2l_jax.core.tenants import TenantUsage

STRETCH = 2.0

_NOTED = attrgetter("rank")

type Rank = tuple[float, ...]
type RankFunction = Callable[[Session], Rank]


def default_vllm(session: Session) -> Rank:
    """Running sessions in the order they got memory, then waiting ones by arrival (artifact, `default_vllm`)."""
    if session.admitted is None:
        return (1, session.arrival)
    return (0, session.admitted)


def fcfs(session: Session) -> Rank:
    """Complete sessions by arrival, then incomplete ones by arrival (artifact, `fcfs`)."""
    return (not session.is_final, session.arrival)


def lcas(session: Session) -> Rank:
    """Complete sessions by arrival of their last chunk, then incomplete ones likewise (artifact, `lcas`)."""
    return (not session.is_final, session.last_event_s, session.arrival)


def mcps(session: Session) -> Rank:
    """Most computed tokens first, then arrival (artifact, `mcps`)."""
    return (-session.computed, session.arrival)


@dataclass(frozen=True, slots=True)
class Policy:
    """How sessions are ranked: the smaller the rank, the earlier the turn and the later the loss of memory.

    Ranks of two sessions are never equal, so they are a total order: the first session can take memory from every
    other one and always gets on.

    Attributes:
      rank: the session's rank now.
      sort_key: what to sort many by in one step: `rank`, or what ranks them alike in less time.
      note: to be called when an event of a session has come, and when a complete one's KV has changed by more than a
        decoded token.
      streams_last: incomplete sessions get only what complete ones cannot use, in short steps, and take memory only
        where that pays. Otherwise budget and memory go by rank alone, as in the artifact.
    """

    rank: RankFunction
    sort_key: Callable[[], RankFunction]
    note: Callable[[Session, float], None]
    streams_last: bool


def _plain(rank: RankFunction) -> Callable[[CostModel, TenantUsage], Policy]:
    return lambda costs, usage: Policy(rank, lambda: rank, lambda session, now_s: None, streams_last=False)


def _s2l(costs: CostModel, usage: TenantUsage) -> Policy:
    def note(session: Session, now_s: float) -> None:
        if session.final_s is None:
            session.rank = (True, -session.priority, session.arrival)
            return
        work_s = costs.recompute(max(0, session.remaining), session.computed)
        due_s = session.final_s + STRETCH * work_s
        start_by_s = session.deadline_s - work_s
        if now_s <= start_by_s < due_s:
            due_s = start_by_s
        session.rank = (False, -session.priority, due_s, session.arrival)

    def rank(session: Session) -> Rank:
        if not usage.excess_s or session.final_s is None:
            return session.rank
        excess_s = usage.excess_s.get(session.tenant, 0.0)
        late, priority, due_s, arrival = session.rank
        return (late, priority, due_s + excess_s, arrival)

    def sort_key() -> RankFunction:
        return rank if usage.excess_s else _NOTED

    return Policy(rank, sort_key, note, streams_last=True)


POLICIES: dict[str, Callable[[CostModel, TenantUsage], Policy]] = {
    "s2l": _s2l,
    "default_vllm": _plain(default_vllm),
    "fcfs": _plain(fcfs),
    "lcas": _plain(lcas),
    "mcps": _plain(mcps),
}


def find_policy(name: str, costs: CostModel, usage: TenantUsage) -> Policy:
    """The policy of this name.

    Raises:
      InvalidArgument: there is none; the message lists those there are.
    """
    if name not in POLICIES:
        raise InvalidArgument(f"policy is {name!r}, but must be one of {', '.join(POLICIES)}")
    return POLICIES[name](costs, usage)
