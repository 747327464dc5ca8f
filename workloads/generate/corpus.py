"""Documents that sessions share: how popular and how long each is."""

import numpy as np
from scipy.special import ndtri

from workloads.generate.marginals import strata

_SIGMA = 1.35
"""Of the documents' lognormal lengths: lists of ten then differ about as much as the published prompts do."""
_TOLERANCE = 0.005
_FIRST_CHOICE = 4
"""Lists long: where a document to exchange is looked for first, so that popular ones stay popular."""


class Corpus:
    """Documents, the most popular first.

    Attributes:
      tokens: length of each, int64 `[documents]`.
    """

    def __init__(self, rng: np.random.Generator, documents: int, popularity: float, mean_tokens: float) -> None:
        """Makes documents up.

        Args:
          rng: where lengths come from.
          documents: how many there are.
          popularity: exponent of Zipf's law.
          mean_tokens: of a document that is drawn.
        """
        self._log_weights = -popularity * np.log(np.arange(1, documents + 1))
        lengths = rng.permutation(np.exp(_SIGMA * ndtri(strata(rng, documents))))
        lengths *= mean_tokens / np.average(lengths, weights=np.exp(self._log_weights))
        self.tokens = np.maximum(1, np.rint(lengths)).astype(np.int64)

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """So many different documents, or all there are, in the order drawn, int32 `[count]`."""
        # The largest of weights with Gumbel noise are a draw without replacement, place by place.
        noisy = -self._log_weights - rng.gumbel(size=len(self._log_weights))
        first = np.argpartition(noisy, count)[:count] if count < len(noisy) else np.arange(len(noisy))
        return first[np.argsort(noisy[first])].astype(np.int32)

    def fit(self, documents: np.ndarray, count: int, tokens: int) -> np.ndarray:
        """Exchanges a few of the first `count` documents for later ones, so that they have about so many tokens.

        Args:
          documents: a drawn order; the earlier a document comes, the sooner it is taken.
          count: length of the list that matters.
          tokens: what the list should add up to.

        Returns:
          The documents in another order.
        """
        documents = documents.copy()
        for pool in (_FIRST_CHOICE * count, len(documents)):
            for _ in range(count):
                lengths = self.tokens[documents[:pool]]
                missing = tokens - int(lengths[:count].sum())
                if abs(missing) <= _TOLERANCE * tokens:
                    return documents
                misses = np.abs(missing - (lengths[None, count:] - lengths[:count, None]))  # [count, pool - count]
                old, new = divmod(int(misses.argmin()), misses.shape[1])
                if misses[old, new] >= abs(missing):
                    break
                documents[[old, count + new]] = documents[[count + new, old]]
        return documents
