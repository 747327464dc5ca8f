"""Does the simulator tell what the engine does? One trace through both, on this machine.

    python benchmarks/fidelity.py                      measures this machine first; about 25 minutes
    python benchmarks/fidelity.py --profile FILE       with a profile measured before
    python benchmarks/fidelity.py --load light --seed 5
    python benchmarks/fidelity.py --minutes 12         more sessions, so that percentiles are those of fewer chances
    python benchmarks/fidelity.py --profile FILE --paced
                                                       an engine that takes exactly what the profile says: what is left
                                                       of the error is the simulator's own

Sessions like those of Stream2LLM's crawler, many times shorter and slower, made of passages of the Python
documentation, are streamed to smollm2-135m in this process, and to the simulator with a measured profile: the same
scheduler, with the same limits and costs. Loads are shares of what the profile says the machine can do if each session
were served alone. Under memory pressure the KV pool is a quarter of what the load wants: of the most tokens of context
that are open at once.

Prints mean and percentiles of TTFT (from the last chunk) and of TPOT, engine against simulator, and what the profile
says of every step that the engine ran. Writes fidelity.json and fidelity.png. Wants a quiet machine.

A shared machine is faster in one minute than in the next, by a third and more, and no two of its steps take equally
long. So each load is simulated in three ways: *as profiled*, each step takes what the profile says; *as checked*, steps
take and vary as those of a small load did just before and just after the run, on the same engine; and *of the run*, as
the run's own did. The first says how well a profile of some minutes ago predicts, the second how well one does when the
machine has just been looked at, the third how well the simulator does once its speed is known.

Where steps vary, the simulation is repeated 24 times, each time with other draws. What is compared with the engine is
the mean of each figure; beside it stands where 9 of 10 repeats lie. That is how much two runs of the *engine* differ by
for no reason but the machine: no prediction can be nearer than that to one run.
"""

import asyncio
import functools
import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import click
from fidelity_engines import PacedEngine
from fidelity_report import Outcome, Speed, draw, print_outcome, verdict
from fidelity_variation import simulate_repeats
from rich.console import Console

from cost_profiles.catalog import find_profile
from cost_profiles.measure import slowdown
from cost_profiles.profile import Profile
from cost_profiles.quiet import ForeignCores
from cost_profiles.served import ServedStep
from s2l_jax.core.costs import StepShape
from s2l_jax.engine.protocol import Engine
from s2l_jax.models import registry
from serving.commands.profile_measure import measure_command
from serving.config import ServeConfig
from serving.measuring_load import stream_sessions
from serving.measuring_steps import StepRecorder
from workloads import crawl
from workloads.generate.crawler import CrawlerConfig, crawler_trace
from workloads.generate.tokens import TokenSource, passages_of
from workloads.replay.engine_target import EngineTarget
from workloads.replay.progress import ReplayProgress
from workloads.replay.runner import Measured, run_replay
from workloads.replay.schedule import PlannedSession, peak_context_tokens, plan_sessions
from workloads.replay.simulation import simulate
from workloads.replay.simulation_config import SimulationConfig, make_server
from workloads.trace import Trace, read_trace

MODEL = "smollm2-135m"
DOCS = Path(next(iter(crawl.__path__))) / "python_docs.jsonl"
TOKEN_BUDGET, MAX_BATCH, MAX_TOKENS, LONGEST = 512, 32, 16, 640
HOST_KV_BYTES = 2**28
MEASURE_S = 180.0
VOCABULARY = 1 << 15


@dataclass(frozen=True)
class Load:
    """How busy the machine is to be, and how much memory there is of what the sessions want; None is plenty."""

    name: str
    busy_share: float
    memory_share: float | None = None


LOADS = (Load("light", 0.25), Load("heavy", 0.75), Load("pressure", 0.5, 0.25))


def make_source() -> TokenSource:
    """Passages of the Python documentation, as the model's tokenizer sees them."""
    texts = [event.text for event in read_trace(DOCS).events if event.text]
    return passages_of(registry.load(MODEL).tokenizer.encode("".join(texts)).tolist())


def alone_s(session: PlannedSession, profile: Profile) -> float:
    """What the profile says a session takes that has the machine for itself, each piece of it in one step."""
    context, seconds = 0, 0.0
    for _, piece in session.pieces:
        seconds += profile.costs.recompute(piece.size, context)
        context += piece.size
    return seconds + session.max_tokens * profile.costs.step(StepShape(decodes=1, decode_context_tokens=context))


def make_trace(load: Load, profile: Profile, tokens: TokenSource, seed: int, arriving_s: float) -> Trace:
    """As many sessions as keep the machine so busy, for as long as sessions arrive."""

    def draw_sessions(sessions: int, qps: float) -> Trace:
        config = CrawlerConfig(
            sessions=sessions,
            qps=qps,
            seed=seed,
            token_scale=1 / 16,
            time_scale=2.0,
            max_prompt_tokens=LONGEST,
            max_tokens=MAX_TOKENS,
        )
        return crawler_trace(config, tokens)

    sample = plan(draw_sessions(100, 1.0), seed)
    session_s = sum(alone_s(session, profile) for session in sample) / len(sample)
    qps = load.busy_share / session_s
    return draw_sessions(max(8, round(qps * arriving_s)), qps)


def plan(trace: Trace, seed: int) -> list[PlannedSession]:
    """What both the engine and the simulator get."""
    return plan_sessions(trace.sessions, "stream", None, seed, VOCABULARY)


def pool_blocks(load: Load, planned: Sequence[PlannedSession], profile: Profile) -> int:
    """Blocks of the KV pool."""
    peak_tokens = peak_context_tokens(planned) + len(planned) * MAX_TOKENS
    wanted_tokens = max((load.memory_share or 2.0) * peak_tokens, longest_tokens(profile))
    return -(-int(wanted_tokens) // profile.memory.block_tokens)


def longest_tokens(profile: Profile) -> int:
    """Tokens of the longest session there may be; template and question come on top of the pages."""
    return min(profile.max_model_len, 2 * LONGEST)


class EngineRun(NamedTuple):
    """What came of it.

    Attributes:
      measured: what the sessions' users saw.
      steps: of these sessions.
      checks: steps of a small load before and after.
      foreign_cores: that other processes kept busy meanwhile.
    """

    measured: Measured
    steps: list[ServedStep]
    checks: list[ServedStep]
    foreign_cores: float


async def run_engine(
    planned: Sequence[PlannedSession],
    config: ServeConfig,
    profile: Profile,
    progress: ReplayProgress,
    *,
    is_paced: bool,
) -> EngineRun:
    """Sends the sessions to the engine, and a small load before and after them."""
    recorders: list[StepRecorder] = []

    def record(engine: Engine) -> Engine:
        recorders.append(StepRecorder(PacedEngine(engine, profile) if is_paced else engine))
        return recorders[-1]

    async with EngineTarget(config, wrap_engine=record, costs=profile.costs) as target:
        steps = recorders[0].steps
        small_load = functools.partial(
            stream_sessions, target.orchestrator, VOCABULARY, longest_tokens(profile), MAX_BATCH
        )
        await asyncio.to_thread(small_load, seed=1)
        before = len(steps)
        others = ForeignCores()
        with progress.of(planned):
            measured = await run_replay(planned, target, asyncio.Event(), progress.on_event)
        foreign_cores, after = others.average(), len(steps)
        await asyncio.to_thread(small_load, seed=2)
    return EngineRun(measured, steps[before:after], steps[:before] + steps[after:], foreign_cores)


def run_load(load: Load, trace: Trace, profile: Profile, seed: int, console: Console, *, is_paced: bool) -> Outcome:
    """Runs one load through both."""
    planned = plan(trace, seed)
    blocks = pool_blocks(load, planned, profile)
    simulation = SimulationConfig(
        kv_blocks=blocks,
        host_bytes=HOST_KV_BYTES,
        token_budget=TOKEN_BUDGET,
        max_batch=MAX_BATCH,
        max_model_len=longest_tokens(profile),
    )
    config = ServeConfig(
        model=MODEL,
        kv_blocks=blocks,
        block_size=profile.memory.block_tokens,
        token_budget=TOKEN_BUDGET,
        max_batch=MAX_BATCH,
        max_model_len=longest_tokens(profile),
        policy=simulation.policy,
        preemption=simulation.preemption,
        host_kv_gib=HOST_KV_BYTES / 2**30,
        idle_timeout_s=600.0,
    )
    progress = ReplayProgress(console, load.name)
    run = asyncio.run(run_engine(planned, config, profile, progress, is_paced=is_paced))
    gc.collect()  # the weights: cycles keep them
    plain = simulate(planned, make_server(simulation, profile, len(planned)))
    measured: dict[Speed, list[ServedStep]] = {"as checked": run.checks, "of the run": run.steps}
    at_speed = replace(profile, serving_slowdown=slowdown(run.steps, profile) * profile.serving_slowdown)
    return Outcome(
        load=load.name,
        sessions=len(planned),
        pool_blocks=blocks,
        engine=run.measured.sessions,
        simulated={
            "as profiled": [plain.measured.sessions],
            **{speed: simulate_repeats(planned, simulation, profile, steps) for speed, steps in measured.items()},
        },
        slowness={"as profiled": 1.0, **{speed: slowdown(steps, profile) for speed, steps in measured.items()}},
        steps=[(step.plan.shape, at_speed.step_s(step.plan, step.idle_s), step.seconds) for step in run.steps],
        simulated_steps=plain.counters.steps,
        foreign_cores=run.foreign_cores,
    )


@click.command(help=__doc__)
@click.option("--profile", "profile_name", help="Name or file of a measured profile.  [default: measures one]")
@click.option("--load", "names", multiple=True, type=click.Choice([load.name for load in LOADS]), help="[default: all]")
@click.option("--seed", default=3, show_default=True, help="Of the sessions.")
@click.option("--minutes", default=4.0, show_default=True, help="In which sessions arrive, of each load.")
@click.option("--paced", is_flag=True, help="Run an engine that takes what the profile says.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Also write figures here.")
@click.option(
    "--out", default=Path("out/fidelity"), show_default=True, type=click.Path(file_okay=False, path_type=Path)
)
def main(
    profile_name: str | None,
    names: tuple[str, ...],
    seed: int,
    minutes: float,
    paced: bool,
    json_file: Path | None,
    out: Path,
) -> None:
    """Runs everything and prints tables."""
    console = Console(width=140)
    out.mkdir(parents=True, exist_ok=True)
    profile = find_profile(profile_name or measure(out / "profile.json"))
    tokens = make_source()
    outcomes = []
    for load in LOADS:
        if not names or load.name in names:
            trace = make_trace(load, profile, tokens, seed, 60 * minutes)
            outcomes.append(run_load(load, trace, profile, seed, console, is_paced=paced))
            print_outcome(console, outcomes[-1])
    figures = {"profile": profile.name, "hardware": profile.hardware, "loads": [each.to_json() for each in outcomes]}
    (json_file or out / "fidelity.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    draw(outcomes, out / "fidelity.png")
    console.print(verdict(outcomes), highlight=False)


def measure(path: Path) -> str:
    """Measures this machine as `s2l profile measure` does, with contexts as long as the sessions'."""
    options = ("--model", MODEL, "--max-model-len", str(2 * LONGEST), "--budget-s", str(MEASURE_S), "--out", str(path))
    measure_command.main(options, standalone_mode=False)
    gc.collect()
    return str(path)


if __name__ == "__main__":
    main()
