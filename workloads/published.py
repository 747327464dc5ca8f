"""Published statistics of Stream2LLM's two workloads (arXiv 2604.16395), which generated traces are held against.

Tokens are Llama-3's. A query's tokens are those of its complete prompt; its chunks are a crawler's pages (the first one
is the search itself), or the versions of a vector search's result list; gaps lie between a query's chunks.
"""

from collections.abc import Mapping

Statistics = Mapping[str, Mapping[str, float]]
"""What is known of each quantity: its `mean`, percentiles such as `p5`, and `max`."""

PUBLISHED: Mapping[str, Statistics] = {
    "crawler": {
        "tokens": {"mean": 8889, "p50": 5749, "p75": 11167, "p95": 28372},
        "retrieval_s": {"mean": 9.219, "p50": 8.670, "p75": 11.059, "p95": 16.402},
        "chunks": {"mean": 7.86, "p50": 8, "max": 17},
        "gap_s": {
            "mean": 1.053,
            "p5": 0.082,
            "p25": 0.387,
            "p50": 0.701,
            "p75": 1.340,
            "p95": 3.078,
            "p99": 5.293,
        },
    },
    "anns": {
        "tokens": {"mean": 13006, "p50": 10126, "p75": 14615, "p95": 30618},
        "retrieval_s": {"mean": 4.471, "p50": 3.896, "p75": 5.327, "p95": 8.512},
        "chunks": {"mean": 4.42, "p50": 4, "max": 26},
        "gap_s": {
            "mean": 0.157,
            "p5": 0.0014,
            "p25": 0.011,
            "p50": 0.037,
            "p75": 0.124,
            "p95": 0.699,
            "p99": 2.079,
        },
    },
}
QUERIES: Mapping[str, int] = {"crawler": 4322, "anns": 500}
"""Queries that the statistics are of; retrieval times of the vector search are those of its first 500 of 4997."""
