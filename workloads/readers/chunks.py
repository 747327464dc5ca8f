"""Makes up when pieces of a context arrive, for formats that only tell how long it is."""

from collections.abc import Sequence

import numpy as np

from workloads.generate.marginals import Marginal, split
from workloads.published import PUBLISHED
from workloads.readers.found import ReadOptions
from workloads.trace import Event, Op, Part

_CRAWLER = PUBLISHED["crawler"]
_CHUNKS_SIGMA = (
    2.6  # chosen: a rounded normal distribution of this width has about the published mean, median and maximum
)
_SIZES_SIGMA = 0.8  # chosen: of the logarithm of a chunk's share
_SEARCH_SIGMA = 0.45  # chosen: of the logarithm of the wait for the first chunk


class ChunkSchedule:
    """Draws sizes and times of chunks like those of Stream2LLM's crawler (arXiv 2604.16395), from a seed.

    Gaps follow the published percentiles, counts the published mean and maximum, and the first chunk comes after what
    gaps leave of the published mean time of retrieval.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng([seed, 3])
        self._gap_s = Marginal.of(_CRAWLER["gap_s"])
        mean, gap_s = _CRAWLER["chunks"]["mean"], _CRAWLER["gap_s"]["mean"]
        self._search_s = _CRAWLER["retrieval_s"]["mean"] - (mean - 1) * gap_s

    def draw(self, units: int) -> tuple[list[int], list[float]]:
        """Splits a context of `units >= 1` tokens or blocks.

        Returns:
          `(sizes, times_s)`: the size of each chunk, and when it comes, in seconds since the query.
        """
        rng, counts = self._rng, _CRAWLER["chunks"]
        drawn = round(counts["mean"] + _CHUNKS_SIGMA * rng.standard_normal())
        chunks = int(np.clip(drawn, 1, min(counts["max"], units)))
        search_s = self._search_s * np.exp(_SEARCH_SIGMA * rng.standard_normal() - _SEARCH_SIGMA**2 / 2)
        waits_s = np.append(search_s, self._gap_s.quantile(rng.random(chunks - 1)))
        return split(rng, units, chunks, _SIZES_SIGMA), np.cumsum(waits_s).tolist()


class Requests:
    """Makes sessions of requests of which only arrival and size are known.

    Attributes:
      made_up: what it makes up.
    """

    def __init__(self, options: ReadOptions, content: str) -> None:
        """Starts.

        Args:
          options: whether to make up chunks, and from which seed.
          content: what is made up of the content, such as "all content".
        """
        self._schedule = ChunkSchedule(options.seed) if options.chunks else None
        chunks = (f"arrival of chunks (as the crawler's, seed {options.seed})",) if options.chunks else ()
        self.made_up = (*chunks, content)

    def session(self, name: str, arrival_s: float, max_tokens: int, content: int | Sequence[Part]) -> tuple[Event, ...]:
        """A session whose content is a number of tokens, or parts that are not to be cut."""
        if self._schedule is None:
            opened = _event(arrival_s, name, "open", content, max_tokens)
            return (opened, Event(arrival_s, name, "finish"))
        sizes, times_s = self._schedule.draw(content if isinstance(content, int) else len(content))
        events = [Event(arrival_s, name, "open", max_tokens=max_tokens)]
        begin = 0
        for size, at_s in zip(sizes, times_s, strict=True):
            chunk = size if isinstance(content, int) else content[begin : begin + size]
            events.append(_event(arrival_s + at_s, name, "append", chunk))
            begin += size
        return (*events, Event(events[-1].t_s, name, "finish"))


def _event(t_s: float, session: str, op: Op, content: int | Sequence[Part], max_tokens: int | None = None) -> Event:
    if isinstance(content, int):
        return Event(t_s, session, op, n_tokens=content, max_tokens=max_tokens)
    return Event(t_s, session, op, parts=tuple(content), max_tokens=max_tokens)
