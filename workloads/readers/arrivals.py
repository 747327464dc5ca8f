"""When queries arrive, for formats that do not tell."""

from collections.abc import Iterator

import numpy as np

from workloads.readers.found import ReadOptions


def made_up_arrivals(options: ReadOptions) -> Iterator[float]:
    """A Poisson process in seconds, the first arrival at 0, without an end."""
    rng = np.random.default_rng([options.seed, 4])
    now_s = 0.0
    while True:
        yield now_s
        now_s += float(rng.exponential(1.0 / options.qps))


def made_up_note(options: ReadOptions) -> str:
    """What a header says of them."""
    return f"arrival of queries (Poisson, {options.qps:g} a second, seed {options.seed})"
