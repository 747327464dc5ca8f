"""What publishing the steps of an engine of several processes costs rank 0.

Engines do nothing here, so that all that takes time is publishing: a plan becomes bytes, enters the history, goes to
each of the other ranks, and their answers are compared. The other ranks are processes on this machine; over a network,
rank 0 does the same, since it waits for nobody.

    python benchmarks/world.py
"""

import argparse
import multiprocessing
import socket
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from s2l_jax.core.ids import SessionId, SlotId
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import Chunk, Sample, SampledToken, StepPlan, StepResult
from serving.world.config import WorldConfig
from serving.world.follower import Follower
from serving.world.following import carry_out_all
from serving.world.leader import Leader
from serving.world.leading_engine import LeadingEngine
from serving.world.link import Link
from serving.world.orders import plan_to_bytes

GREEDY = SamplingParams()
CONTEXT_TOKENS, BLOCK_TOKENS = 4096, 16


class IdleEngine:
    """Ends every step at once."""

    def __init__(self) -> None:
        self._steps: deque[StepPlan] = deque()

    def submit(self, plan: StepPlan) -> None:
        self._steps.append(plan)

    def collect(self) -> StepResult:
        plan = self._steps.popleft()
        return StepResult(plan, tuple(SampledToken(7) for _ in plan.samples))

    def is_ready(self) -> bool:
        return bool(self._steps)

    def close(self) -> None:
        self._steps.clear()


def decode(sessions: int) -> StepPlan:
    """A token of each session, far into its context."""
    return _plan([1] * sessions, CONTEXT_TOKENS, samples=sessions)


def prefill(tokens: int) -> StepPlan:
    """A chunk of one context."""
    return _plan([tokens], CONTEXT_TOKENS, samples=0)


def _plan(lengths: Sequence[int], start: int, samples: int) -> StepPlan:
    rng = np.random.default_rng(0)
    chunks, ids = [], [SessionId(f"{number:032x}") for number in range(len(lengths))]
    for number, length in enumerate(lengths):
        blocks = rng.integers(0, 10_000, -(-(start + length) // BLOCK_TOKENS)).astype(np.int32)
        tokens = rng.integers(0, 30_000, length).astype(np.int32)
        chunks.append(Chunk(ids[number], SlotId(number), start, tokens, blocks))
    drawn = tuple(Sample(ids[n], SlotId(n), GREEDY, 0, start + 1, None, start) for n in range(samples))
    return StepPlan(1, tuple(chunks), drawn)


def follow(port: int, config: WorldConfig) -> None:
    """A process of another rank."""
    follower = Follower(Link(socket.create_connection(("127.0.0.1", port))), config, 60.0)
    carry_out_all(IdleEngine(), follower, lambda *_: None, lambda: None)  # type: ignore[arg-type]
    follower.close()


def lead(followers: int) -> tuple[LeadingEngine, Leader]:
    """Rank 0, with so many others."""
    size, links = followers + 1, {}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for rank in range(1, size):
            config = WorldConfig(size, rank, "127.0.0.1")
            multiprocessing.Process(target=follow, args=(listener.getsockname()[1], config), daemon=True).start()
            links[rank] = Link(listener.accept()[0])
    leader = Leader(links, WorldConfig(size, 0, "127.0.0.1"), 60.0, lambda: None)
    return LeadingEngine(IdleEngine(), leader), leader  # type: ignore[arg-type]


def median_us(call: Callable[[], object], repeats: int) -> float:
    """Of so many runs."""
    taken = []
    for _ in range(repeats):
        from_s = time.perf_counter()
        call()
        taken.append(time.perf_counter() - from_s)
        time.sleep(0.001)  # as between steps, when the others work
    return statistics.median(taken) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--repeats", type=int, default=1000)
    repeats = parser.parse_args().repeats
    steps = {"decode 8": decode(8), "decode 32": decode(32), "decode 256": decode(256), "prefill 2048": prefill(2048)}
    alone = IdleEngine()

    def both(engine: IdleEngine | LeadingEngine, plan: StepPlan) -> None:
        engine.submit(plan)
        engine.collect()

    print("| step | bytes | alone, us | to bytes, us | 1 other rank, us | 3 others, us |")
    print("|---|---|---|---|---|---|")
    few, many = lead(1), lead(3)
    for name, plan in steps.items():
        size = len(plan_to_bytes(plan))
        times = [
            median_us(lambda plan=plan: both(alone, plan), repeats),
            median_us(lambda plan=plan: plan_to_bytes(plan), repeats),
            *(median_us(lambda engine=engine, plan=plan: both(engine, plan), repeats) for engine, _ in (few, many)),
        ]
        print(f"| {name} | {size} | " + " | ".join(f"{each:.0f}" for each in times) + " |")
    for engine, leader in (few, many):
        assert leader.watchdog.lost is None
        engine.close()


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()
