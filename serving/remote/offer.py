"""Pages that another process may pull."""

from dataclasses import dataclass

PROBED = tuple(float(number) for number in range(1024))
"""What is offered to whoever probes, as float32."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Pages that can be pulled, once.

    Attributes:
      address: of the process that has them.
      key: what they are called there.
      pieces: how many arrays they are.
      shape: of each.
      dtype: of each.
    """

    address: str
    key: int
    pieces: int
    shape: tuple[int, ...]
    dtype: str
