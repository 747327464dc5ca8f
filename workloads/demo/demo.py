"""The demonstration from beginning to end."""

import asyncio
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from workloads.crawl.docs import stored_crawl
from workloads.demo.crawl_stage import crawl_or_stored
from workloads.demo.server import ServerProcess
from workloads.replay.grpc_target import GrpcTarget
from workloads.replay.job import ReplayConfig, run_job
from workloads.replay.progress import ReplayProgress
from workloads.replay.schedule import MODES, Mode
from workloads.report.page import sample_answers, write_report
from workloads.report.plots import save_png, ttft_figure
from workloads.report.run import Run, answers_agree, failures, load_runs
from workloads.report.table import format_seconds, rich_table
from workloads.trace import Trace, read_trace

# Enough for 16 questions at a time, steps short enough that an answer does not wait long for somebody else's page, and
# few enough shapes that a first start does not compile for minutes.
_SERVER_SIZES = (
    *("--max-model-len", "2048", "--kv-blocks", "2048", "--max-sessions", "32"),
    *("--max-batch", "16", "--token-budget", "128"),
)
_MAX_REASONS = 3
_TITLE = "Answers over context that is still arriving"


@dataclass(frozen=True, slots=True)
class DemoConfig:
    """What the demonstration does.

    Attributes:
      out: folder for everything it writes.
      model: what is served.
      qps: questions per second, Poisson.
      seed: of the site's delays and of the arrivals; the default draws gaps of about the mean and variance they
        have in the long run.
      recorded: replay the crawl that comes with this package instead of crawling.
      limit: questions at most.
    """

    out: Path
    model: str = "smollm2-135m"
    qps: float = 0.2
    seed: int = 7
    recorded: bool = False
    limit: int | None = None


def run_demo(config: DemoConfig, console: Console) -> bool:
    """Crawls, replays in both modes, and reports.

    Returns:
      True if every session was answered in both modes; False also after ctrl-C.
    """
    _stage(console, 1, "Retrieval", "questions are asked, and a crawler fetches pages that may answer them")
    if config.recorded:
        trace = read_trace(stored_crawl())
    else:
        trace = crawl_or_stored(config.out / "crawl.jsonl", config.seed, console)
    _describe_trace(trace, console)
    for mode in MODES:
        shutil.rmtree(config.out / mode, ignore_errors=True)  # what an earlier demonstration left
    explanations = {
        "stream": "each page is sent to the model the moment it arrives, and computed while the next one is fetched",
        "wait": "the same pages at the same times, but sent only once the last one is there, as is usual today",
    }
    for number, mode in enumerate(MODES, start=2):
        _stage(console, number, f"Mode {mode}", explanations[mode])
        if asyncio.run(_replay(trace, mode, config, console))["interrupted"]:
            console.print("Interrupted; what was measured so far is in " + str(config.out / mode))
            return False
    _stage(console, 4, "What it bought", "the same questions, pages and arrivals; only the moment of sending differs")
    runs = load_runs([config.out / mode for mode in MODES])
    write_report(config.out / "report.html", runs, _TITLE)
    save_png(ttft_figure(runs), config.out / "ttft.png")
    _verdict(runs, console)
    console.print(f"\nReport:  {config.out}/report.html\nPicture: {config.out}/ttft.png", highlight=False)
    return all(run.summary["failed"] == 0 for run in runs)


async def _replay(trace: Trace, mode: Mode, config: DemoConfig, console: Console) -> dict[str, Any]:
    """One mode against a fresh server, so that nothing computed in one mode helps the other."""
    console.print(f"Starting `s2l serve --model {config.model}` (a first start compiles, which takes longer)")
    with ServerProcess(["--model", config.model, *_SERVER_SIZES]) as server:
        used_before_s = server.cpu_s()

        def cpu(wall_s: float) -> dict[str, Any]:
            used_s = server.cpu_s()
            if used_s is None or used_before_s is None:
                return {}
            cores = os.cpu_count() or 1
            used_s -= used_before_s
            return {"server_cpu": {"used_s": used_s, "cores": cores, "share": used_s / (wall_s * cores)}}

        async with GrpcTarget(server.address) as target:
            replay = ReplayConfig(mode, config.qps, config.seed, limit=config.limit)
            return await run_job(trace, target, replay, config.out / mode, ReplayProgress(console, mode), cpu)


def _describe_trace(trace: Trace, console: Console) -> None:
    gaps_s, pages, chars, retrieval_s = [], [], [], []
    for session in trace.sessions:
        at_s = [event.t_s for event in session.events if event.op == "append"]
        pages.append(len(at_s))
        gaps_s += np.diff(at_s).tolist()
        chars.append(sum(len(event.text or "") for event in session.events))
        retrieval_s.append(session.complete_s - session.arrival_s)
    console.print(
        f"{trace.header.source}\n"
        f"{len(trace.sessions)} questions; per question {np.mean(pages):.1f} pages, "
        f"{np.mean(chars):.0f} characters, {np.mean(retrieval_s):.1f} s of retrieval "
        f"(a page every {np.mean(gaps_s):.2f} s, median {np.median(gaps_s):.2f} s)",
        highlight=False,
    )


def _verdict(runs: list[Run], console: Console) -> None:
    agreement = answers_agree(runs)
    console.print(rich_table(runs))
    stream_s, wait_s = (run.summary["ttft_final_s"]["p50"] for run in runs)
    if stream_s and wait_s:
        console.print(
            f"[bold]After the last page, half of the users see the first word within {format_seconds(stream_s)} "
            f"instead of {format_seconds(wait_s)}: {wait_s / stream_s:.1f} times sooner.[/bold]",
            highlight=False,
        )
    console.print(agreement.describe(), highlight=False)
    for run in runs:
        for reason in failures(run)[:_MAX_REASONS]:
            console.print(Text(f"{run.name} failed for {reason}", style="red"))
    for question, answers in sample_answers(runs, agreement):
        console.print(Text(f"\n{question}", style="bold"))
        for name, text in answers:
            console.print(Text(f"  [{name}] {text.strip()}"))


def _stage(console: Console, number: int, title: str, explanation: str) -> None:
    console.print(f"\n[bold cyan]{number}/4 {title}[/bold cyan]: {explanation}", highlight=False)
