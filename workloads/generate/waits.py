"""How long the parts of a query's retrieval take: the wait for its first chunk, and the gaps between its chunks."""

from dataclasses import dataclass

import numpy as np

from workloads.generate.marginals import Marginal, arranged, strata

_SHORTEST_S = 0.05
"""Before a first chunk: a search cannot be over when it begins, whatever the sum of gaps would leave for it."""


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds, of all queries.

    Attributes:
      first_s: before each query's first chunk, `[queries]`.
      gaps_s: between a query's chunks, those of the first query first, `[sum of chunks - queries]`.
      ends: where each query's gaps end in `gaps_s`, `[queries]`.
    """

    first_s: np.ndarray
    gaps_s: np.ndarray
    ends: np.ndarray

    def of(self, query: int) -> np.ndarray:
        """When a query's chunks come, in seconds since it arrived, `[chunks]`."""
        begin = self.ends[query - 1] if query else 0
        return np.cumsum([self.first_s[query], *self.gaps_s[begin : self.ends[query]]])


def draw_waits(
    rng: np.random.Generator, chunks: np.ndarray, gap_s: Marginal, total_s: Marginal, first_s: Marginal
) -> Waits:
    """Draws times such that gaps and totals both have the distributions that they should.

    A query's gaps are drawn independently of each other: sums of dependent ones would spread wider than the published
    totals do. A first wait is drawn, too, and the totals are dealt out in the order of the sums, so that what a total
    leaves for the first wait is near the drawn one.

    Args:
      rng: where randomness comes from.
      chunks: of each query, 1 or more.
      gap_s: of all gaps.
      total_s: of a query's retrieval.
      first_s: about what the first waits should be.
    """
    queries = len(chunks)
    gaps_s = rng.permutation(gap_s.ascending(rng, int(chunks.sum()) - queries))
    ends = np.cumsum(chunks - 1)
    sums_s = np.diff(np.concatenate([[0.0], np.cumsum(gaps_s)])[np.concatenate([[0], ends])])
    wanted_s = sums_s + rng.permutation(first_s.quantile(strata(rng, queries)))
    totals_s = arranged(total_s.ascending(rng, queries), wanted_s)
    return Waits(np.maximum(_SHORTEST_S, totals_s - sums_s), gaps_s, ends)
