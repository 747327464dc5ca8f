"""How long a search takes where its documents are far away: here it takes microseconds, so its time is modelled."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from s2l_jax.core.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Pacing:
    """The model: a wait until the search begins to answer, then one cell after the other is read from slow storage.

    Both are lognormal. With the defaults a search of 128 cells takes about as long as the published ones of
    Stream2LLM's vector search, and its lists follow each other about as closely.

    Attributes:
      first_s: median time before the first cell.
      first_sigma: standard deviation of its logarithm.
      probe_s: median time to read a cell.
      probe_sigma: standard deviation of its logarithm.
      scale: multiplies all times.
    """

    first_s: float = 2.0
    first_sigma: float = 0.5
    probe_s: float = 0.01
    probe_sigma: float = 1.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("first_s", "first_sigma", "probe_s", "probe_sigma", "scale"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise InvalidArgument(f"{name} is {getattr(self, name)!r}, but must be 0 or more")

    def times_s(self, rng: np.random.Generator, probes: Sequence[int]) -> list[float]:
        """When a query has looked into so many cells, in seconds since it arrived.

        Args:
          rng: where randomness comes from.
          probes: ascending, 1 or more.
        """
        first_s = self.first_s * math.exp(self.first_sigma * rng.standard_normal())
        read_s = np.cumsum(self.probe_s * np.exp(self.probe_sigma * rng.standard_normal(probes[-1])))
        return [self.scale * (first_s + float(read_s[number - 1])) for number in probes]
