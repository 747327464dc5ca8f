"""A crawler's sessions: context grows page by page (append mode).

Sizes and times follow the published statistics of Stream2LLM's crawler workload (arXiv 2604.16395, 4322 queries; tokens
are Llama-3's). What they leave open is chosen here: a query's tokens fall to its chunks in lognormal shares, chunk
counts are rounded normal, and the search takes two seconds on average.
"""

from dataclasses import asdict, dataclass

import numpy as np

from s2l_jax.core.errors import InvalidArgument
from workloads.generate.in_memory import trace_of
from workloads.generate.marginals import LogNormal, poisson_arrivals, split
from workloads.generate.tokens import TokenSource
from workloads.trace import Event, Session, Trace

QUERY_TOKENS = LogNormal.of_p50_p95(5749, 28372)
SEARCH_S = LogNormal(1.8, 0.45)  # what the gaps leave of a query's mean time of 9.2 s
GAP_S = LogNormal.of_quartiles(0.387, 0.701, 1.340)
CHUNKS_MEAN, CHUNKS_SIGMA, CHUNKS_MAX = 7.86, 2.6, 17
_CHUNK_SIGMA = 0.8


@dataclass(frozen=True, slots=True)
class CrawlerConfig:
    """How many queries of what size.

    Attributes:
      sessions: queries.
      qps: Poisson arrivals per second.
      seed: of everything random.
      token_scale: multiplies the published token counts, so that they fit smaller models and machines.
      time_scale: multiplies the published times between chunks.
      max_prompt_tokens: longer prompts are cut to this.
      max_tokens: output tokens asked for.
    """

    sessions: int = 200
    qps: float = 1.0
    seed: int = 0
    token_scale: float = 1.0
    time_scale: float = 1.0
    max_prompt_tokens: int = 100_000
    max_tokens: int = 1

    def __post_init__(self) -> None:
        for name in ("sessions", "token_scale", "time_scale", "max_tokens"):
            if not getattr(self, name) > 0:
                raise InvalidArgument(f"{name} is {getattr(self, name)!r}, but must be above 0")
        if self.max_prompt_tokens < 4 * CHUNKS_MAX:
            raise InvalidArgument(
                f"max_prompt_tokens is {self.max_prompt_tokens}, but a query needs {4 * CHUNKS_MAX} tokens at least"
            )


def crawler_trace(config: CrawlerConfig, source: TokenSource | None = None) -> Trace:
    """Draws a trace: `open` with the query's arrival, one `append` per chunk, `finish` with the last.

    Args:
      config: how many of what size.
      source: of the pages; None tells their sizes only, and whoever replays makes them up.
    """
    rng = np.random.default_rng([config.seed, 1])
    arrivals_s = poisson_arrivals(rng, config.sessions, config.qps)
    sessions = [
        _session(rng, f"c{number:04d}", at_s, config, source) for number, at_s in enumerate(arrivals_s.tolist())
    ]
    return trace_of(
        "crawler", "made up from the published statistics of Stream2LLM's crawler", asdict(config), sessions
    )


def _session(
    rng: np.random.Generator, name: str, arrival_s: float, config: CrawlerConfig, source: TokenSource | None
) -> Session:
    chunks = int(np.clip(round(CHUNKS_MEAN + CHUNKS_SIGMA * rng.standard_normal()), 1, CHUNKS_MAX))
    tokens = int(QUERY_TOKENS.draw(rng, 1)[0] * config.token_scale)
    sizes = split(rng, int(np.clip(tokens, 4 * CHUNKS_MAX, config.max_prompt_tokens)), chunks, _CHUNK_SIGMA)
    waits_s = np.concatenate([SEARCH_S.draw(rng, 1), GAP_S.draw(rng, chunks - 1)])  # the first chunk is the search
    times_s = arrival_s + config.time_scale * np.cumsum(waits_s)
    events = [Event(arrival_s, name, "open", max_tokens=config.max_tokens, note=name)]
    for number, (at_s, size) in enumerate(zip(times_s.tolist(), sizes, strict=True)):
        if source is None:
            events.append(Event(at_s, name, "append", n_tokens=size))
        else:
            events.append(Event(at_s, name, "append", tokens=source(f"{name} {number}", size)))
    return Session(name, (*events, Event(events[-1].t_s, name, "finish")))
