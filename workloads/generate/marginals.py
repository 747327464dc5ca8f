"""Random sizes and times with given percentiles."""

import math
from dataclasses import dataclass

import numpy as np

from s2l_jax.core.errors import InvalidArgument

_SIGMAS_OF_P95 = 1.6448536
_SIGMAS_OF_QUARTILE = 0.6744898


@dataclass(frozen=True, slots=True)
class LogNormal:
    """A lognormal distribution.

    Attributes:
      median: half of all values lie below it.
      sigma: standard deviation of the values' logarithm.
    """

    median: float
    sigma: float

    @classmethod
    def of_p50_p95(cls, p50: float, p95: float) -> "LogNormal":
        """The one with these percentiles."""
        return cls(p50, math.log(p95 / p50) / _SIGMAS_OF_P95)

    @classmethod
    def of_quartiles(cls, p25: float, p50: float, p75: float) -> "LogNormal":
        """The one with this median, and as wide as these quartiles."""
        return cls(p50, math.log(p75 / p25) / (2 * _SIGMAS_OF_QUARTILE))

    @property
    def mean(self) -> float:
        """Mean of all values."""
        return self.median * math.exp(self.sigma**2 / 2)

    def draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Float64 `[size]`."""
        return self.median * np.exp(self.sigma * rng.standard_normal(size))


def poisson_arrivals(rng: np.random.Generator, count: int, qps: float) -> np.ndarray:
    """Float64 `[count]` seconds, ascending, the first at 0.

    Raises:
      InvalidArgument: `qps` is not above 0.
    """
    if not 0.0 < qps < math.inf:
        raise InvalidArgument(f"qps is {qps}, but must be above 0")
    gaps_s = rng.exponential(1.0 / qps, size=count)
    gaps_s[:1] = 0.0
    return np.cumsum(gaps_s)


def split(rng: np.random.Generator, total: int, parts: int, sigma: float) -> list[int]:
    """Splits `total >= parts` into whole parts of at least 1, of random, lognormally different sizes."""
    weights = np.exp(sigma * rng.standard_normal(parts))
    ends = np.rint(np.cumsum(weights) / weights.sum() * (total - parts)).astype(int)
    return [int(size) + 1 for size in np.diff(ends, prepend=0)]
