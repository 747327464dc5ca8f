"""Fuzzes a server over HTTP and gRPC by hand: `python -m tests.fuzz --minutes 10 --seed 1`.

Every few seconds it says what it has done and how much memory the server has; at the end, how fast that grew after the
warm-up, in which caches of bounded size fill. It ends with an error as soon as an answer is a defect, the server dies,
or something is left behind; and if memory still grows after the warm-up.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.fuzz.grpc_fuzz import GrpcFuzzer
from tests.fuzz.http_fuzz import ByteFuzzer, HttpFuzzer
from tests.fuzz.target import Target, target

_REPORT_S = 10.0
MOST_MIB_PER_MIN = 1.0
SHORTEST_MIN = 5.0  # in less, one arena of the allocator looks like a leak


def fuzz(server: Target, seconds: float, number: int, *, examples: int = 100) -> list[tuple[float, float]]:
    """Lets all fuzzers take turns.

    Args:
      server: what is fuzzed.
      seconds: how long.
      number: seed of the first turn; each turn takes the next one.
      examples: of one fuzzer in one turn.

    Returns:
      After each turn the time since the start in seconds, and the server's memory in MiB.
    """
    grpc, fuzzers = GrpcFuzzer(server.grpc), [HttpFuzzer(server.url), ByteFuzzer(server.http_port)]
    begin_s = reported_s = time.monotonic()
    memory = []
    while (passed_s := time.monotonic() - begin_s) < seconds or not memory:
        for fuzzer in (grpc, *fuzzers):
            fuzzer.run(examples, number)
        server.check()
        number += 1
        memory.append((time.monotonic() - begin_s, server.rss_mib()))
        if time.monotonic() - reported_s > _REPORT_S:
            reported_s = time.monotonic()
            calls = [sum(one.statuses.values()) for one in (grpc, *fuzzers)]
            print(
                f"{passed_s:6.0f} s  seed {number}: {calls[0]} gRPC calls, {calls[1]} HTTP requests, {calls[2]} of "
                f"spoiled bytes, server {memory[-1][1]:.1f} MiB",
                flush=True,
            )
    for fuzzer, name in zip((grpc, *fuzzers), ("gRPC", "HTTP", "spoiled HTTP"), strict=True):
        print(f"{name}: {dict(fuzzer.statuses.most_common())}")
    grpc.close()
    return memory


def growth_mib_per_min(memory: list[tuple[float, float]], warm_up_s: float) -> float | None:
    """How fast memory grows after the warm-up, least squares; None if the readings after it are of too short a time.

    Args:
      memory: as `fuzz` returns it.
      warm_up_s: how long the warm-up was.
    """
    warm = [(at_s, mib) for at_s, mib in memory if at_s >= warm_up_s]
    if not warm or warm[-1][0] - warm[0][0] < 60 * SHORTEST_MIN:
        return None
    at_s, mib = np.array(warm).T
    return float(np.polyfit(at_s / 60, mib, 1)[0])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="After the warm-up.")
    parser.add_argument("--warm-up-minutes", type=float, default=5.0, help="In which stores of bounded size fill.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warm_up_s = 60 * options.warm_up_minutes
    with tempfile.TemporaryDirectory() as folder, target(Path(folder)) as server:
        growth = growth_mib_per_min(fuzz(server, warm_up_s + 60 * options.minutes, options.seed), warm_up_s)
    if growth is None:
        print(f"no word about memory: that takes {SHORTEST_MIN:g} minutes after the warm-up")
        return
    print(f"memory grows by {growth:.2f} MiB a minute after the warm-up, {MOST_MIB_PER_MIN:g} is allowed")
    if growth > MOST_MIB_PER_MIN:
        sys.exit(1)


if __name__ == "__main__":
    main()
