"""A search that shows its results while it is still looking: more and more cells of an inverted-file index."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from s2l_jax.core.errors import FailedPrecondition, InvalidArgument

_TRAINING_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Refinement:
    """What a search has found after each slice of cells.

    Attributes:
      probes: cells looked into so far, after each slice.
      lists: the best documents so far, best first, int64 `[slices, queries, k]`; -1 where nothing is found yet.
    """

    probes: tuple[int, ...]
    lists: np.ndarray

    def recall(self, exact: np.ndarray) -> list[float]:
        """Share of the exact results, `[queries, k]`, that each slice's lists hold."""
        return [float(np.mean(_shared(lists, exact)) / exact.shape[1]) for lists in self.lists]

    def changed(self) -> list[float]:
        """How many entries of a list are new in each slice but the first, on average."""
        k = self.lists.shape[2]
        return [float(k - np.mean(_shared(new, old))) for old, new in zip(self.lists, self.lists[1:], strict=False)]


def _shared(some: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Number of documents that lists have in common, whatever their places, `[queries]`."""
    return (some[:, :, None] == other[:, None, :]).any(2).sum(1)


class ProgressiveIndex:
    """Documents in cells around centres: a query looks into the nearest cells first, and each cell once.

    Args:
      vectors: float32 `[documents, dim]`, of length 1.
      cells: how many there are; must be no more than documents.
      seed: of the centres.

    Raises:
      FailedPrecondition: faiss is not installed.
      InvalidArgument: there are fewer documents than cells.
    """

    def __init__(self, vectors: np.ndarray, cells: int, seed: int) -> None:
        try:
            import faiss
        except ModuleNotFoundError:
            raise FailedPrecondition(
                "faiss is not installed, but a live search needs it: pip install 's2l-jax[search]'"
            ) from None
        if len(vectors) < cells:
            raise InvalidArgument(f"there are {len(vectors)} passages, but {cells} cells need {cells} at least")
        self._vectors = vectors
        self._cells = cells
        self._coarse = faiss.IndexFlatIP(vectors.shape[1])
        self._index: Any = faiss.IndexIVFFlat(self._coarse, vectors.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
        self._index.cp.seed, self._index.cp.niter = seed, _TRAINING_ROUNDS
        self._index.cp.min_points_per_centroid = 1
        self._index.train(vectors)
        self._index.add(vectors)

    def refine(self, queries: np.ndarray, k: int) -> Refinement:
        """The best `k` documents after 1, 2, 4, ... cells, until all have been looked into.

        Args:
          queries: float32 `[queries, dim]`, of length 1.
          k: length of a list.
        """
        nearness, cells = self._coarse.search(queries, self._cells)
        ends = [1 << power for power in range((self._cells - 1).bit_length())] + [self._cells]
        scores = np.full((len(queries), k), -np.inf, np.float32)
        found = np.full((len(queries), k), -1, np.int64)
        lists = []
        begin = 0
        for end in ends:
            self._index.nprobe = end - begin
            some, new = self._index.search_preassigned(queries, k, cells[:, begin:end], nearness[:, begin:end])
            scores, found = np.hstack([scores, np.where(new < 0, -np.inf, some)]), np.hstack([found, new])
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            scores, found = np.take_along_axis(scores, best, 1), np.take_along_axis(found, best, 1)
            lists.append(found)
            begin = end
        return Refinement(tuple(ends), np.array(lists))

    def exact(self, queries: np.ndarray, k: int) -> np.ndarray:
        """The best `k` of all documents, best first, int64 `[queries, k]`."""
        return np.argsort(-(queries @ self._vectors.T), axis=1, kind="stable")[:, :k]
