"""What is published about the workloads of Stream2LLM (MLSys 2026, arXiv 2604.16395), for traces to be held against.

Figures are those of the paper and of its artifact (github.com/rajveerb/stream2llm); tokens are Llama-3's. A query's
first chunk is the search itself, for the crawler; retrieval lasts from the query's arrival to its last chunk.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Published:
    """One workload.

    Attributes:
      name: of the workload.
      queries: how many there are.
      figures: what is known, by quantity (`tokens`, `retrieval_s`, `chunks` of a query, `gap_s` between two chunks of
        a query) and statistic (`mean`, `p5` to `p99`, `max`), named as in `workloads.stats`.
    """

    name: str
    queries: int
    figures: Mapping[str, Mapping[str, float]]


def _published(name: str, queries: int, **figures: Mapping[str, float]) -> Published:
    return Published(name, queries, MappingProxyType({key: MappingProxyType(dict(of)) for key, of in figures.items()}))


CRAWLER = _published(
    "crawler",
    4322,
    tokens={"mean": 8889, "p50": 5749, "p75": 11167, "p95": 28372},
    retrieval_s={"mean": 9.219, "p50": 8.670, "p75": 11.059, "p95": 16.402},
    chunks={"mean": 7.86, "p50": 8, "max": 17},
    gap_s={"mean": 1.053, "p5": 0.082, "p25": 0.387, "p50": 0.701, "p75": 1.340, "p95": 3.078, "p99": 5.293},
)

ANNS = _published(
    "anns",
    4997,
    tokens={"mean": 13006, "p50": 10126, "p75": 14615, "p95": 30618},
    retrieval_s={"mean": 4.471, "p50": 3.896, "p75": 5.327, "p95": 8.512},  # of the first 500 queries
    chunks={"mean": 4.42, "p50": 4, "max": 26},
    gap_s={"mean": 0.157, "p5": 0.0014, "p25": 0.011, "p50": 0.037, "p75": 0.124, "p95": 0.699, "p99": 2.079},
)

WORKLOADS: Mapping[str, Published] = MappingProxyType({CRAWLER.name: CRAWLER, ANNS.name: ANNS})
