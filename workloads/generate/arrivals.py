"""When queries arrive: steadily at random, in bursts, or with the time of day."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from s2l_jax.core.errors import InvalidArgument

ArrivalKind = Literal["poisson", "bursty", "diurnal"]
ARRIVAL_KINDS: tuple[ArrivalKind, ...] = get_args(ArrivalKind)
Arrivals = Callable[[np.random.Generator, int, float], np.ndarray]
"""Called as `arrivals(rng, count, qps)`: float64 `[count]` seconds, ascending, the first at 0, `qps` on average."""


@dataclass(frozen=True, slots=True)
class ArrivalProcess:
    """A process of arrivals; an object of it is an `Arrivals`.

    Bursts are gamma-distributed gaps: one number says how bursty they are, the mean rate stays what was asked for, and
    it is the model that BurstGPT (arXiv 2401.17644) fits to the requests of a real LLM service. Weibull gaps would do
    the same with a mean that needs a solver; a Markov-modulated process needs four numbers that few people know.

    Attributes:
      kind: `poisson`; `bursty`; or `diurnal`, a Poisson process whose rate is a sine wave that begins at its mean.
      variation: standard deviation of the gaps over their mean, `bursty` only; 1 is a Poisson process.
      swing: how far the rate swings to both sides, as a share of its mean, `diurnal` only.
      period_s: of the wave, `diurnal` only; None makes all queries together last one period.
    """

    kind: ArrivalKind = "poisson"
    variation: float = 3.0
    swing: float = 0.8
    period_s: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ARRIVAL_KINDS:
            raise InvalidArgument(f"arrivals are {self.kind!r}, but must be one of {', '.join(ARRIVAL_KINDS)}")
        if not 0.0 < self.variation < math.inf:
            raise InvalidArgument(f"variation is {self.variation!r}, but must be above 0")
        if not 0.0 <= self.swing <= 1.0:
            raise InvalidArgument(f"swing is {self.swing!r}, but must be from 0 to 1")
        if self.period_s is not None and not 0.0 < self.period_s < math.inf:
            raise InvalidArgument(f"period_s is {self.period_s!r}, but must be above 0")

    def __call__(self, rng: np.random.Generator, count: int, qps: float) -> np.ndarray:
        """Draws the times.

        Args:
          rng: where randomness comes from.
          count: number of arrivals.
          qps: arrivals per second in the long run.

        Returns:
          Float64 `[count]` seconds, ascending, the first at 0.

        Raises:
          InvalidArgument: `qps` is not above 0.
        """
        if not 0.0 < qps < math.inf:
            raise InvalidArgument(f"qps is {qps}, but must be above 0")
        match self.kind:
            case "poisson":
                gaps_s = rng.exponential(1.0 / qps, size=count)
            case "bursty":
                shape = self.variation**-2
                gaps_s = rng.gamma(shape, 1.0 / (qps * shape), size=count)
            case "diurnal":
                return self._diurnal(rng, count, qps)
        gaps_s[:1] = 0.0
        return np.cumsum(gaps_s)

    def _diurnal(self, rng: np.random.Generator, count: int, qps: float) -> np.ndarray:
        """Thins a Poisson process of the highest rate (Lewis and Shedler 1979)."""
        period_s = self.period_s or count / qps
        highest = qps * (1.0 + self.swing)
        times_s = np.empty(0)
        now_s = 0.0
        while len(times_s) < count:
            candidates_s = now_s + np.cumsum(rng.exponential(1.0 / highest, size=count))
            rate = qps * (1.0 + self.swing * np.sin(2.0 * math.pi * candidates_s / period_s))
            times_s = np.append(times_s, candidates_s[rng.random(count) * highest < rate])
            now_s = candidates_s[-1]
        return times_s[:count] - times_s[0]
