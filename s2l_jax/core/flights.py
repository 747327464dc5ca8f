"""Steps on their way: planned, and not committed or failed yet."""

from collections import deque
from typing import NamedTuple

from s2l_jax.core.plan import StepPlan
from s2l_jax.core.session import Session

MAX_IN_FLIGHT = 2


class Flight(NamedTuple):
    """A step on its way.

    Attributes:
      plan: what the engine does.
      sessions: all that are in it.
      sampling: those that are sampled, in the order of the plan's samples.
    """

    plan: StepPlan
    sessions: list[Session]
    sampling: list[Session]

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to do."""
        return not (self.sessions or self.plan.saves)


class Flights:
    """Steps on their way, oldest first: two at most, which come home in order, or are lost from one on."""

    def __init__(self) -> None:
        self._flights: deque[Flight] = deque()

    def __len__(self) -> int:
        return len(self._flights)

    @property
    def is_full(self) -> bool:
        """True if no other may begin."""
        return len(self._flights) == MAX_IN_FLIGHT

    def begin(self, flight: Flight) -> None:
        """Another one is on its way."""
        self._flights.append(flight)

    def take(self, plan: StepPlan) -> Flight:
        """Takes the oldest one out.

        Raises:
          RuntimeError: its plan is another one.
        """
        if not self._flights or self._flights[0].plan is not plan:
            raise RuntimeError(f"step {plan.step_id} is not the oldest one in flight")
        return self._flights.popleft()

    def take_from(self, plan: StepPlan) -> list[Flight]:
        """Takes out the one of this plan and those behind it, newest first.

        Raises:
          RuntimeError: there is none of this plan.
        """
        if all(flight.plan is not plan for flight in self._flights):
            raise RuntimeError(f"step {plan.step_id} is not in flight")
        taken = [self._flights.pop()]
        while taken[-1].plan is not plan:
            taken.append(self._flights.pop())
        return taken
