"""Hunts for breaches of the law by hand: `python -m tests.hunt --examples 5000 --seed 1`.

Plain random moves, longer runs than hypothesis makes and several times as many steps a second. What fails is cut down
to a short sequence of moves, printed as the lines of a regression test (`tests/core/test_regressions.py`).
"""

import argparse
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable

from s2l_jax.core.config import PREEMPTION_MODES, SchedulerConfig
from s2l_jax.core.costs import PhysicalCosts
from s2l_jax.core.ids import SessionId
from tests.core.test_law import FakeEngineLaw, output_of
from tests.law import COSTS, EOS, LENGTHS, MAX_MODEL_LEN, TEXTS, report
from tests.law_run import Run

type Move = Callable[[Run], object]
type World = tuple[SchedulerConfig, PhysicalCosts]

_LAW = FakeEngineLaw()
_NAMES = [SessionId(f"s{i}") for i in range(_LAW.max_sessions + 1)]


def make_world(rng: random.Random) -> World:
    """A scheduler's configuration and costs."""
    config = SchedulerConfig(
        num_blocks=rng.choice(_LAW.pool_sizes),
        host_blocks=rng.choice(_LAW.host_blocks),
        block_size=_LAW.block_size,
        token_budget=rng.randint(_LAW.max_batch, _LAW.max_token_budget),
        max_batch=_LAW.max_batch,
        max_sessions=_LAW.max_sessions,
        max_model_len=MAX_MODEL_LEN,
        policy=rng.choice(_LAW.policies),
        preemption=rng.choice(PREEMPTION_MODES),
        decode_gap_s=rng.choice([1e-3, 0.03, 10.0]),
        partial_step_s=rng.choice([1e-3, 0.03, 10.0]),
        min_chunk_tokens=rng.choice([1, 16]),
        eos_token_ids=EOS,
    )
    return config, COSTS[rng.choice(sorted(COSTS))]


def make_run(world: World, tally: Counter[str]) -> Run:
    """A run that has not begun."""
    return Run(world[0], _LAW.device(), output_of, costs=world[1], tally=tally)


def draw_move(rng: random.Random, weights: dict[str, float], run: Run) -> Move:
    """A move. It does nothing where it makes no sense, so that others can be left out before it."""
    kind = rng.choices(list(weights), list(weights.values()))[0]
    if kind == "open":
        return _draw_open(rng, run)
    if kind in ("append", "update", "edit", "back", "finish", "cancel"):
        return _draw_change(rng, run, kind)
    if kind == "wait":
        pause_s = rng.choice([0.01, 0.3, 20.0])
        return lambda run: setattr(run, "now_s", run.now_s + pause_s)
    if kind == "step":
        name, may = rng.choice(
            [
                ("plan", lambda run: run.planned is None and run.uncommitted < 2),
                ("hand_over", lambda run: run.planned),
                ("land", lambda run: run.flying),
                ("settle", lambda run: run.landed),
            ]
        )
        return lambda run: may(run) and getattr(run, name)()
    return lambda run: getattr(run, kind)()


def _draw_open(rng: random.Random, run: Run) -> Move:
    name = rng.choice([name for name in _NAMES if name not in run.streams])
    tokens, params = rng.choice(TEXTS)[: rng.choice(LENGTHS)], rng.choice(_LAW.params)
    final, tenant, priority = rng.random() < 0.3, rng.choice(_LAW.tenants), rng.choice([0, 0, 1])
    deadline_s = rng.choice([None, run.now_s + 0.1])

    def move(run: Run) -> None:
        if name not in run.streams:
            run.open(name, tokens, params, final=final, tenant=tenant, priority=priority, deadline_s=deadline_s)

    return move


def _draw_change(rng: random.Random, run: Run, kind: str) -> Move:
    if not run.streams:
        return Run.advance
    name, final = rng.choice(sorted(run.streams)), rng.random() < 0.3 or kind == "finish"
    if kind == "cancel":
        return lambda run: run.cancel(name) if name in run.streams else None
    stream = run.streams[name]
    context, text = list(stream.context), rng.choice(TEXTS)[: rng.choice(LENGTHS)]
    if kind == "append":
        context += text[: max(0, MAX_MODEL_LEN - stream.params.max_tokens - len(context))]
    elif kind == "update":
        context[rng.randint(0, len(context)) :] = text
    elif kind == "edit" and context:
        context[rng.randrange(len(context))] += 4
    elif kind == "back" and stream.versions:
        context = rng.choice(stream.versions)
    sends_all = rng.random() < 0.5

    def move(run: Run) -> None:
        if name in run.streams:
            old = run.streams[name].context
            pairs = zip(old, context, strict=False)
            common = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(old), len(context)))
            run.change(name, context, keep=0 if sends_all else common, final=final)

    return move


def draw_weights(rng: random.Random) -> dict[str, float]:
    """How likely which move is: other runs, other habits."""
    return {
        "open": rng.choice([1, 3]),
        "append": rng.choice([1, 3]),
        "update": rng.choice([0, 2]),
        "edit": rng.choice([0, 2]),
        "back": rng.choice([0, 2]),
        "finish": rng.choice([0.5, 2]),
        "cancel": rng.choice([0, 0.5]),
        "wait": 1,
        "advance": rng.choice([10, 30]),
        "step": rng.choice([0, 10]),
        "fail": rng.choice([0, 0, 0.3]),
        "lose_kv": rng.choice([0, 0, 0.2]),
    }


def drain(run: Run) -> None:
    """The last move: half of the streams stay idle."""
    run.drain(idle=[name for name in sorted(run.streams)[::2] if not run.streams[name].is_final])


def error_of(world: World, moves: list[Move]) -> tuple[BaseException | None, Run]:
    """What goes wrong in a run of these moves."""
    run = make_run(world, Counter())
    try:
        for move in moves:
            move(run)
    except (AssertionError, RuntimeError, LookupError) as error:
        return error, run
    return None, run


def shorten(world: World, moves: list[Move], kind: type[BaseException]) -> list[Move]:
    """Leaves out moves, in ever shorter pieces, as long as the same kind of error comes."""
    length = len(moves) // 2
    while length:
        start = 0
        while start < len(moves):
            fewer = moves[:start] + moves[start + length :]
            if isinstance(error_of(world, fewer)[0], kind):
                moves = fewer
            else:
                start += length
        length //= 2
    return moves


def hunt(seed: int, tally: Counter[str]) -> tuple[World, list[Move], BaseException | None]:
    """One run: its world and moves, and what went wrong."""
    rng = random.Random(seed)
    world, weights, moves = make_world(rng), draw_weights(rng), []
    run = make_run(world, tally)
    try:
        for _ in range(rng.choice([60, 150, 300])):
            moves.append(draw_move(rng, weights, run))
            moves[-1](run)
        moves.append(drain)
        drain(run)
    except (AssertionError, RuntimeError, LookupError) as error:
        return world, moves, error
    return world, moves, None


def main() -> None:
    """Hunts until something fails, or the examples are used up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="another one tries other runs")
    options = parser.parse_args()
    tally: Counter[str] = Counter()
    started_s = time.monotonic()
    for example in range(options.examples):
        world, moves, error = hunt(options.seed * 1_000_003 + example, tally)
        if error is not None:
            error, run = error_of(world, shorten(world, moves, type(error)))
            print(f"example {example}:", *run.moves, sep="\n")
            traceback.print_exception(error)
            raise SystemExit(1)
    report(tally, options.examples)
    print(f"{options.examples} runs, {tally['steps']} steps in {time.monotonic() - started_s:.0f} s: nothing found")


if __name__ == "__main__":
    main()
