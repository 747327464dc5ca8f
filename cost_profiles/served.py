"""Steps as a server ran them."""

from typing import NamedTuple

from s2l_jax.core.plan import StepPlan

LEAST_IDLE_S = 0.05
"""A device that stood idle this long may run its next step more slowly; see `Profile.idle_slowdown`."""


class ServedStep(NamedTuple):
    """A step that ran.

    Attributes:
      plan: what it did.
      seconds: its chunks and samples took.
      idle_s: how long the device had stood idle when it was submitted.
    """

    plan: StepPlan
    seconds: float
    idle_s: float

    @property
    def is_after_idling(self) -> bool:
        """True if the device had stood idle long enough to matter."""
        return self.idle_s >= LEAST_IDLE_S
