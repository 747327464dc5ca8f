"""Random sizes and times whose percentiles and mean are given."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from s2l_jax.core.errors import InvalidArgument

_FARTHEST = 9.0  # standard deviations; no stratified draw of any practical size gets there
_STEEPEST = 6.0


@dataclass(frozen=True, slots=True)
class Marginal:
    """A distribution that is lognormal piece by piece: straight lines through its knots on lognormal paper.

    Attributes:
      z: knots, ascending, in standard deviations of a normal distribution.
      log_values: logarithms of the values there, ascending.
    """

    z: tuple[float, ...]
    log_values: tuple[float, ...]

    @classmethod
    def of(cls, statistics: Mapping[str, float]) -> "Marginal":
        """The one with these percentiles and this mean.

        One tail goes on like the piece beside it. The other is as steep as the mean requires: the lower half if the
        lowest percentile is the median, else what lies above the highest percentile.

        Args:
          statistics: `mean`, and two or more percentiles such as `p50`; other entries are left aside.

        Raises:
          InvalidArgument: percentiles do not ascend, or no tail gives this mean.
        """
        percentiles = sorted((float(key[1:]), value) for key, value in statistics.items() if key[0] == "p")
        z = ndtri(np.array([percent for percent, _ in percentiles]) / 100.0)
        logs = np.log([value for _, value in percentiles])
        slopes = np.diff(logs) / np.diff(z)
        if not (len(percentiles) > 1 and (slopes > 0.0).all()):
            raise InvalidArgument(f"{dict(statistics)} needs two or more percentiles, and they must ascend")

        def with_tails(slope: float) -> "Marginal":
            lower, upper = (slope, slopes[-1]) if percentiles[0][0] >= 50.0 else (slopes[0], slope)
            first, last = logs[0] - lower * (z[0] + _FARTHEST), logs[-1] + upper * (_FARTHEST - z[-1])
            return cls((-_FARTHEST, *z.tolist(), _FARTHEST), (float(first), *logs.tolist(), float(last)))

        def too_much(slope: float) -> float:
            return with_tails(slope).mean - statistics["mean"]

        if too_much(0.0) * too_much(_STEEPEST) > 0.0:
            raise InvalidArgument(f"no distribution with these percentiles has this mean: {dict(statistics)}")
        return with_tails(brentq(too_much, 0.0, _STEEPEST))

    @property
    def mean(self) -> float:
        """Mean of all values."""
        z, logs = np.array(self.z), np.array(self.log_values)
        slopes = np.diff(logs) / np.diff(z)
        # The integral of exp(a + b z) under the normal density is that of a shifted one.
        heights = np.exp(logs[:-1] - slopes * z[:-1] + slopes**2 / 2.0)
        return float((heights * (ndtr(z[1:] - slopes) - ndtr(z[:-1] - slopes))).sum())

    def quantile(self, share: np.ndarray) -> np.ndarray:
        """The values that these shares of all values, each between 0 and 1, lie below."""
        return np.exp(np.interp(ndtri(share), self.z, self.log_values))

    def ascending(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Float64 `[count]` in ascending order, drawn as `strata` has it."""
        return self.quantile(strata(rng, count))


def strata(rng: np.random.Generator, count: int) -> np.ndarray:
    """Shares, ascending, one from each of `count` equal parts of 0 to 1, so that few draws show percentiles, too."""
    return (np.arange(count) + rng.random(count)) / max(1, count)


def arranged(ascending: np.ndarray, key: np.ndarray) -> np.ndarray:
    """The same values in an order of their own: the smallest where `key` is smallest, and so on."""
    values = np.empty_like(ascending)
    values[np.argsort(key, kind="stable")] = ascending
    return values


def split(rng: np.random.Generator, total: int, parts: int, sigma: float) -> list[int]:
    """Splits `total >= parts` into whole parts of at least 1, of random, lognormally different sizes."""
    weights = np.exp(sigma * rng.standard_normal(parts))
    ends = np.rint(np.cumsum(weights) / weights.sum() * (total - parts)).astype(int)
    return [int(size) + 1 for size in np.diff(ends, prepend=0)]
