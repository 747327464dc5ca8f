"""How long does the scheduler take to plan a step?

    python benchmarks/scheduler.py
    python benchmarks/scheduler.py --policy s2l --json out/scheduler.json

Times `Scheduler.plan` alone, in a steady state, one step in flight while the next is planned, as the engine does it.
Of the runnable sessions three quarters decode; the rest have 1024 tokens to compute, half of them complete (each is
replaced when it has its first token), half streams that get 1024 tokens more whenever they have caught up, and start
anew at 8192: pages of a crawl are about that long. All other open sessions are streams that wait for context. A step
has 2048 tokens and up to 512 sessions.
Events and commits happen between the timed calls, and garbage is collected as it comes.

In rows that say `decoding` all runnable sessions decode, which is what most steps of a server do. In rows that say
`evicting` the waiting streams fill the pool, and each step's prefill (128 tokens of long complete
prompts) has to take their blocks, to the host pool or for recomputation.
"""

import itertools
import json
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click
import numpy as np
from policies import H200_8B
from rich.console import Console
from rich.table import Table

from s2l_jax.core.config import SchedulerConfig
from s2l_jax.core.ids import SessionId
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import SampledToken, StepPlan, StepResult
from s2l_jax.core.policy import POLICIES
from s2l_jax.core.scheduler import Scheduler

type Kind = Literal["mixed", "decoding", "evicting"]

SIZES: dict[Kind, tuple[tuple[int, int], ...]] = {
    "mixed": ((10, 10), (100, 32), (100, 100), (500, 32), (500, 500), (10_000, 32)),
    "decoding": ((100, 32), (500, 32), (10_000, 32)),
    "evicting": ((100, 32), (500, 32), (10_000, 32)),
}
ARTIFACT_FCFS_US = {10: 4.2, 100: 31.0, 500: 152.0}
"""Stream2LLM's artifact by requests: mean of sorting and budgeting alone, without allocation."""

BLOCK, BUDGET, BATCH = 16, 2048, 512
DECODE_PROMPT, CHUNK, STREAM, IDLE, LONG_PROMPT, LONG_BUDGET = 256, 1024, 8192, 64, 32_768, 128
WARM_UP, STEP_S = 100, 0.02


@dataclass(frozen=True)
class Row:
    """One row of the table: microseconds per call."""

    policy: str
    open_sessions: int
    runnable_sessions: int
    mean_us: float
    p50_us: float
    p99_us: float


class SteadyState:
    """A scheduler under constant load."""

    def __init__(self, policy: str, open_sessions: int, runnable: int, steps: int, kind: Kind) -> None:
        self._rng = np.random.default_rng(0)
        self._names = itertools.count()
        self._decodes = runnable if kind == "decoding" else round(runnable * 0.75)
        self._evicting = evicting = kind == "evicting"
        prompts = runnable - self._decodes
        self._complete = prompts if evicting else prompts // 2
        self._streams = prompts - self._complete
        idle = open_sessions - runnable
        all_steps = steps + WARM_UP
        decode_blocks = self._decodes * (-(-(DECODE_PROMPT + 2 * all_steps) // BLOCK))
        self._idle_tokens = IDLE
        if evicting:
            taken_blocks = all_steps * LONG_BUDGET // BLOCK + decode_blocks
            self._idle_tokens = max(IDLE, -(-taken_blocks // idle) * BLOCK)
        idle_blocks = idle * self._idle_tokens // BLOCK
        longest = LONG_PROMPT + 16 if evicting else max(STREAM, DECODE_PROMPT + 2 * all_steps) + 16
        num_blocks = max(
            -(-longest // BLOCK),
            idle_blocks
            + (self._decodes * (DECODE_PROMPT // BLOCK + 1) if evicting else decode_blocks)
            + self._streams * STREAM // BLOCK
            + (0 if evicting else 2 * CHUNK // BLOCK * self._complete),
        )
        config = SchedulerConfig(
            num_blocks=num_blocks,
            block_size=BLOCK,
            token_budget=self._decodes + LONG_BUDGET if evicting else BUDGET,
            max_batch=min(BATCH, self._decodes + LONG_BUDGET) if evicting else BATCH,
            max_sessions=open_sessions,
            max_model_len=longest,
            policy=policy,
            host_blocks=num_blocks // 2 if evicting else 0,
        )
        self.scheduler = Scheduler(config, H200_8B)
        self._in_flight: deque[StepPlan] = deque()
        self._now_s = 0.0
        self._stream_tokens: dict[SessionId, int] = {}
        self._settle(idle)

    def step(self) -> float:
        """Plans a step while the one before is in flight, and lets the world go on; seconds that planning took."""
        self._now_s += STEP_S
        began_s = time.perf_counter()
        plan = self.scheduler.plan(self._now_s)
        took_s = time.perf_counter() - began_s
        if plan is not None:
            self._in_flight.append(plan)
        if len(self._in_flight) > 1 or plan is None:
            self._commit(self._in_flight.popleft())
        return took_s

    def _settle(self, idle: int) -> None:
        """Opens all sessions and computes what the waiting and the decoding ones bring."""
        for _ in range(idle):
            self._open(self._idle_tokens, final=False, max_tokens=1)
        self._run_dry()
        for _ in range(self._decodes):
            self._open(DECODE_PROMPT, final=True, max_tokens=self.scheduler.config.max_model_len - DECODE_PROMPT)
        while self.scheduler.stats().sessions.get("decoding", 0) < self._decodes:
            self.step()
        for _ in range(self._complete):
            self._open_prompt()
        for _ in range(self._streams):
            session_id = self._open(CHUNK, final=False, max_tokens=1)
            self._stream_tokens[session_id] = CHUNK

    def _run_dry(self) -> None:
        while self.scheduler.has_work or self._in_flight:
            self.step()

    def _open(self, tokens: int, *, final: bool, max_tokens: int) -> SessionId:
        session_id = SessionId(f"s{next(self._names)}")
        params = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
        self.scheduler.open(session_id, self._tokens(tokens), params, self._now_s, final=final)
        return session_id

    def _open_prompt(self) -> None:
        self._open(LONG_PROMPT if self._evicting else CHUNK, final=True, max_tokens=1)

    def _tokens(self, count: int) -> np.ndarray:
        return self._rng.integers(0, 30_000, count, np.int32)

    def _commit(self, plan: StepPlan) -> None:
        tokens = tuple(SampledToken(7) for _ in plan.samples)
        for output in self.scheduler.commit(StepResult(plan, tokens), self._now_s):
            if output.finish_reason is not None:
                self._open_prompt()
        for chunk in plan.chunks:
            if chunk.end == self._stream_tokens.get(chunk.session_id):
                keep = 0 if chunk.end == STREAM else chunk.end  # so that contexts do not grow for ever
                self.scheduler.update(chunk.session_id, self._tokens(CHUNK), self._now_s, keep=keep)
                self._stream_tokens[chunk.session_id] = keep + CHUNK


def measure(policy: str, open_sessions: int, runnable: int, steps: int, kind: Kind) -> Row:
    state = SteadyState(policy, open_sessions, runnable, steps, kind)
    for _ in range(WARM_UP):
        state.step()
    before = sum_of_evictions(state.scheduler)
    times_us = np.array([state.step() for _ in range(steps)]) * 1e6
    evicted = sum_of_evictions(state.scheduler) - before
    if kind == "evicting" and evicted < steps / 2:
        raise SystemExit(f"{policy} {open_sessions}: only {evicted} evictions in {steps} steps; the load is wrong")
    name = policy if kind == "mixed" else f"{policy}, {kind}"
    p50, p99 = np.percentile(times_us, [50, 99]).tolist()
    return Row(name, open_sessions, runnable, float(times_us.mean()), p50, p99)


def sum_of_evictions(scheduler: Scheduler) -> int:
    preempted = scheduler.stats().preemptions
    return preempted.swap + preempted.recompute + preempted.drop


@click.command(help=__doc__)
@click.option("--policy", "policies", multiple=True, type=click.Choice(sorted(POLICIES)), help="[default: all]")
@click.option("--steps", default=500, show_default=True, type=click.IntRange(min=10), help="Timed, after 100 others.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows there.")
def main(policies: tuple[str, ...], steps: int, json_file: Path | None) -> None:
    """Prints the table."""
    table = Table(title="microseconds to plan a step", title_justify="left")
    table.add_column("policy")
    for column in ("open", "runnable", "mean", "P50", "P99", "artifact's fcfs, sorting and budgeting only"):
        table.add_column(column, justify="right")
    rows = []
    console = Console()
    for kind, sizes in SIZES.items():
        for policy in policies or tuple(POLICIES):
            for open_sessions, runnable in sizes:
                row = measure(policy, open_sessions, runnable, steps, kind)
                rows.append(row)
                published = ARTIFACT_FCFS_US.get(open_sessions) if kind == "mixed" else None
                figures = (f"{value:.1f}" for value in (row.mean_us, row.p50_us, row.p99_us))
                table.add_row(
                    row.policy, str(open_sessions), str(runnable), *figures, f"{published:g}" if published else ""
                )
            table.add_section()
    console.print(table)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
