"""What does the scheduler make of too little memory? A real run on this machine, streaming against waiting.

    python benchmarks/pressure.py            everything, about a quarter of an hour
    python benchmarks/pressure.py --quick    few sessions and policies, two minutes

Sessions like those of Stream2LLM's two workloads, many times shorter and slower, made of passages of the Python
documentation, go through smollm2-135m in this process. The KV pool is a quarter of what the load wants: of the
most tokens of context that are open at once. All runs of a workload replay the same sessions at the same times, and
must give the same answers. Ratios are to waiting under `default_vllm`; above 1 is sooner.

Steps and copies are timed by the engine and compared with what the cost model, measured anew at the beginning, says.
At last a session whose context goes from A to B and back to A shows what that costs.

Writes a folder per run, pressure.json, pressure.png and report.html. Wants a quiet machine.
"""

import asyncio
import gc
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from pressure_report import draw, prediction_table, print_all
from pressure_steps import Prediction, RecordingEngine, predictions
from rich.console import Console

from cost_profiles.quiet import ForeignCores
from s2l_jax.engine.protocol import Engine
from s2l_jax.models import registry
from serving.config import ServeConfig
from workloads import crawl
from workloads.generate.anns import AnnsConfig, anns_trace
from workloads.generate.crawler import CrawlerConfig, crawler_trace
from workloads.generate.in_memory import trace_of
from workloads.generate.tokens import TokenSource, passages_of
from workloads.replay.engine_target import EngineTarget
from workloads.replay.job import ReplayConfig, run_job
from workloads.replay.progress import ReplayProgress
from workloads.replay.schedule import Mode, peak_context_tokens, plan_sessions
from workloads.report.page import write_report
from workloads.report.run import answers_agree, load_runs
from workloads.trace import Event, Session, Trace, read_trace

MODEL = "smollm2-135m"
DOCS = Path(next(iter(crawl.__path__))) / "python_docs.jsonl"
BLOCK, TOKEN_BUDGET, MAX_TOKENS, LONGEST = 16, 512, 8, 640
SEED = 3
HOST_KV_GIB = 0.25
START_S, END_S = 6.0, 6.0  # about what a run needs to load the model, and to end after the last chunk
BASELINE = "default_vllm"


@dataclass(frozen=True)
class Run:
    """One run: a mode under a policy and a preemption mode."""

    mode: Mode
    policy: str
    preemption: str = "auto"

    @property
    def name(self) -> str:
        return f"{self.mode}-{self.policy}-{self.preemption}"


@dataclass(frozen=True)
class Load:
    """Sessions, and the pool that is a quarter of what they want."""

    name: str
    trace: Trace
    pool_blocks: int
    peak_tokens: int
    runs: tuple[Run, ...]

    @property
    def run_s(self) -> float:
        return max(session.complete_s for session in self.trace.sessions) + START_S + END_S


ALL_RUNS = (
    Run("wait", BASELINE),
    Run("wait", "s2l"),
    *(Run("stream", policy) for policy in (BASELINE, "fcfs", "lcas", "mcps", "s2l")),
    Run("stream", "s2l", "recompute"),
    Run("stream", "s2l", "swap"),
)
FEW_RUNS = (Run("wait", BASELINE), Run("stream", BASELINE), Run("stream", "s2l"))


def source() -> TokenSource:
    """Passages of the Python documentation, as the model's tokenizer sees them."""
    texts = [event.text for event in read_trace(DOCS).events if event.text]
    return passages_of(registry.load(MODEL).tokenizer.encode("".join(texts)).tolist())


def make_loads(quick: bool, workloads: Sequence[str], tokens: TokenSource) -> list[Load]:
    common: dict[str, Any] = {
        "seed": SEED,
        "max_prompt_tokens": LONGEST,
        "max_tokens": MAX_TOKENS,
    }
    crawler = CrawlerConfig(sessions=8 if quick else 32, qps=0.8, token_scale=1 / 16, time_scale=2.0, **common)
    anns = AnnsConfig(sessions=8 if quick else 20, qps=0.5, token_scale=1 / 24, time_scale=4.0, corpus=400, **common)
    loads = []
    if "crawler" in workloads:
        loads.append(make_load("crawler", crawler_trace(crawler, tokens), FEW_RUNS if quick else ALL_RUNS))
    if "anns" in workloads:
        loads.append(make_load("anns", anns_trace(anns, tokens), FEW_RUNS))
    return loads


def make_load(name: str, trace: Trace, runs: tuple[Run, ...]) -> Load:
    peak_tokens = peak_context_tokens(plan_sessions(trace.sessions, "stream", None, SEED, 1 << 15))
    pool_tokens = max(peak_tokens // 4, LONGEST + MAX_TOKENS)
    return Load(name, trace, -(-pool_tokens // BLOCK), peak_tokens, runs)


def there_and_back(tokens: TokenSource) -> Load:
    """One session whose context is A, then B, then A again, with time to compute each."""
    template, a, b = tokens("template", 64), tokens("a", 512), tokens("b", 512)
    events = (
        Event(0.0, "aba", "open", tokens=template + a, max_tokens=MAX_TOKENS),
        Event(8.0, "aba", "update", tokens=b, keep_tokens=len(template)),
        Event(16.0, "aba", "update", tokens=a, keep_tokens=len(template)),
        Event(16.0, "aba", "finish"),
    )
    trace = trace_of("there-and-back", "", {}, [Session("aba", events)])
    return Load("aba", trace, 256, 0, (Run("stream", "s2l"),))


async def run_one(load: Load, run: Run, out: Path, console: Console) -> dict[str, Any]:
    engines: list[RecordingEngine] = []

    def record(engine: Engine) -> Engine:
        engines.append(RecordingEngine(engine))
        return engines[-1]

    config = ServeConfig(
        model=MODEL,
        kv_blocks=load.pool_blocks,
        block_size=BLOCK,
        token_budget=TOKEN_BUDGET,
        max_model_len=LONGEST + MAX_TOKENS,
        policy=run.policy,
        preemption=run.preemption,
        host_kv_gib=HOST_KV_GIB,
        idle_timeout_s=600.0,
        profile_dir=out / "profiles",
    )
    folder = out / load.name / run.name
    target = EngineTarget(config, wrap_engine=record)
    async with target:
        others = ForeignCores()
        costs = target.costs
        replay = ReplayConfig(run.mode, None, SEED, run.policy)
        progress = ReplayProgress(console, f"{load.name} {run.name}")
        summary = await run_job(
            load.trace, target, replay, folder, progress, lambda wall_s: {"foreign_cores": others.average()}
        )
    gc.collect()  # the weights: cycles keep them
    return {
        **asdict(run),
        "summary": summary,
        "predictions": [asdict(row) for row in predictions(engines[0].records, costs)],
    }


def update_figures(trace: Trace) -> dict[str, int]:
    """What an update trace costs at least if every version is computed before the next one comes.

    Returns:
      versions: number of contexts; first_tokens: their first ones; changed_tokens: what updates bring that the version
      before did not have at that place; lost_tokens: what they throw away.
    """
    first = changed = lost = versions = 0
    for session in trace.sessions:
        length = 0
        for event in session.events:
            if event.op == "update":
                versions += 1
                lost += length - event.keep_tokens
                changed += len(event.tokens or ())
                length = event.keep_tokens + len(event.tokens or ())
            elif event.op == "open":
                length = len(event.tokens or ())
                first += length
    return {"versions": versions, "first_tokens": first, "changed_tokens": changed, "lost_tokens": lost}


def compare_with_perfect_prefix(console: Console, load: Load, cells: Sequence[dict[str, Any]]) -> None:
    figures = update_figures(load.trace)
    needed = figures["first_tokens"] + figures["changed_tokens"]
    console.print(
        f"{load.name}: {figures['versions']} versions; keeping exactly the common prefix and computing every version "
        f"takes {needed} tokens and throws {figures['lost_tokens']} away",
        highlight=False,
    )
    for cell in cells:
        summary = cell["summary"]
        own = summary["tokens_computed"] - summary["tokens_recomputed"]
        excess = own + summary["tokens_reused"] - summary["tokens_invalidated"] - summary["tokens_prompt"]
        console.print(
            f"  {cell['mode']} {cell['policy']}: computed {own} ({own / needed:.3f} of that), and "
            f"{summary['tokens_recomputed']} again after evictions; reused {summary['tokens_reused']}, invalidated "
            f"{summary['tokens_invalidated']}; beyond what a perfect common prefix needs: {excess}",
            highlight=False,
        )


def run_all(loads: Sequence[Load], out: Path, console: Console) -> dict[str, list[dict[str, Any]]]:
    todo = [(load, run) for load in loads for run in load.runs]
    cells: dict[str, list[dict[str, Any]]] = {load.name: [] for load in loads}
    began_s = time.monotonic()
    for number, (load, run) in enumerate(todo):
        left_s = sum(other.run_s for other, _ in todo[number:])
        console.print(
            f"[{number + 1}/{len(todo)}] {load.name} {run.name}: {time.monotonic() - began_s:.0f} s gone, "
            f"about {left_s:.0f} s to go",
            highlight=False,
        )
        cells[load.name].append(asyncio.run(run_one(load, run, out, console)))
        if cells[load.name][-1]["summary"]["interrupted"]:
            raise SystemExit(130)
        (out / "pressure.json").write_text(json.dumps(cells, indent=1) + "\n", encoding="utf-8")
    return cells


def answers(console: Console, load: Load, out: Path) -> bool:
    """Says whether all runs of a load answered alike."""
    runs = load_runs([out / load.name / run.name for run in load.runs])
    write_report(out / load.name / "report.html", runs, f"{load.name} under memory pressure")
    agreement = answers_agree(runs)
    is_good = not agreement.differing and not agreement.mismatch and agreement.compared == len(load.trace.sessions)
    console.print(f"{load.name}: {agreement.describe()}", style=None if is_good else "red", highlight=False)
    return is_good


def report(console: Console, loads: Sequence[Load], cells: dict[str, list[dict[str, Any]]], out: Path) -> bool:
    titles = {
        load.name: f"{load.name}: {len(load.trace.sessions)} sessions, pool of {load.pool_blocks * BLOCK} tokens, "
        f"{load.pool_blocks * BLOCK / load.peak_tokens:.2f} of the peak"
        for load in loads
        if load.peak_tokens
    }
    for load in loads:
        if load.name in titles:
            print_all(console, titles[load.name], cells[load.name])
        if load.name == "anns":
            compare_with_perfect_prefix(console, load, cells[load.name])
        if load.name == "aba":
            summary = cells["aba"][0]["summary"]
            console.print(
                f"A, B, A: {summary['tokens_computed']} tokens computed of 64 + 512 + 512, {summary['tokens_reused']} "
                "reused when A came back",
                highlight=False,
            )
    rows = [
        (f"{name} {cell['mode']} {cell['policy']} {cell['preemption']}", Prediction(**row))
        for name, group in cells.items()
        for cell in group
        if cell["policy"] == "s2l"
        for row in cell["predictions"]
        if name == "crawler" or row["work"] != "recompute"  # an update's new tokens are no recomputation
    ]
    console.print(prediction_table(rows))
    if titles:
        draw({titles[name]: cells[name] for name in titles}, out / "pressure.png")
    good = [answers(console, load, out) for load in loads]
    return all(good)


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Few sessions and policies.")
@click.option(
    "--workload", "workloads", multiple=True, type=click.Choice(("crawler", "anns", "aba")), help="[default: all]"
)
@click.option(
    "--out", default=Path("out/pressure"), show_default=True, type=click.Path(file_okay=False, path_type=Path)
)
def main(quick: bool, workloads: tuple[str, ...], out: Path) -> None:
    """Runs everything and prints tables."""
    console = Console(width=180)
    workloads = workloads or ("crawler", "anns", "aba")
    tokens = source()
    loads = make_loads(quick, workloads, tokens)
    if "aba" in workloads:
        loads.append(there_and_back(tokens))
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    cells = run_all(loads, out, console)
    if not report(console, loads, cells, out):
        raise SystemExit("answers differ between runs, or sessions failed")


if __name__ == "__main__":
    main()
