"""Do long prefills disturb those who are decoding? One engine for all against two with roles of their own.

    python benchmarks/separate.py            smollm2-135m, about five minutes
    python benchmarks/separate.py --quick    fewer rounds

Some sessions decode while long prompts arrive. Both deployments stand side by side in this process and take turns, so
the machine is the same for both: `interleaved` is one engine on one CPU device, `separate` a prefill and a generate
engine on two. Gaps between two tokens of one session are taken while prompts are being computed; the first gap of a
session, in which its KV moves, is reported by itself.

Then contexts come in pieces, with blocks that leave for the other engine as they are computed and without: what of the
hand-off is left to wait for after the first token. How fast pages move is measured by `benchmarks/handoff.py`.

The two CPU devices share the cores, so separation cannot give decodes what prefills no longer take from them as it does
with devices that compute side by side: here it is bought with time to first token.

Writes separate.json. Wants a quiet machine.
"""

import gc
import json
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from cost_profiles.quiet import ForeignCores
from s2l_jax.core.params import SamplingParams
from s2l_jax.orchestrator.events import DoneEvent, FailedEvent, SinkEvent, TokenEvent
from serving.assembly import Assembly, assemble
from serving.config import ServeConfig
from serving.devices import devices_of_all
from serving.slices import Slice

CONFIG = ServeConfig(
    max_model_len=2048, kv_blocks=640, max_batch=16, max_sessions=24, host_kv_gib=0, prefill_slices="cpu=1",
    generate_slices="cpu=1",
)  # fmt: skip
DECODING, SHORT_PROMPT, LONG_PROMPT, PROMPTS, PAUSE_S = 6, 32, 1024, 4, 0.5
STREAMS, STREAMS_BESIDE, PIECE, PIECE_PAUSE_S = 2, 1, 128, 0.8
TIMEOUT_S = 300.0


@dataclass
class Asked:
    """A session: when its tokens came."""

    asked_s: float
    token_s: list[float] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def __call__(self, event: SinkEvent) -> None:
        if isinstance(event, TokenEvent):
            self.token_s.append(time.perf_counter())
        if isinstance(event, FailedEvent):
            raise event.error
        if isinstance(event, DoneEvent):
            self.ended.set()

    def gaps_s(self, begin_s: float, end_s: float) -> list[float]:
        """Of tokens that came in a period, but for the first gap."""
        pairs = zip(self.token_s[1:], self.token_s[2:], strict=False)
        return [later - earlier for earlier, later in pairs if earlier >= begin_s and later <= end_s]


def ask(assembly: Assembly, name: str, tokens: Sequence[int], max_tokens: int) -> Asked:
    sink = Asked(time.perf_counter())
    params = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
    assembly.orchestrator.open(sink=sink, session_id=name, params=params, content=tokens, final=True)
    return sink


@dataclass
class Round:
    """What one deployment did in one round, in seconds."""

    gaps_s: list[float]
    second_token_s: list[float]
    ttft_s: list[float]


def one_round(assembly: Assembly, rng: np.random.Generator) -> Round:
    """Decodes, then long prompts among them; every prompt is new, so nothing is cached."""

    def prompt(length: int) -> list[int]:
        return rng.integers(1000, 40000, length).tolist()

    running = [ask(assembly, f"running {i}", prompt(SHORT_PROMPT), 1500) for i in range(DECODING)]
    wait_until(lambda: all(len(sink.token_s) > 3 for sink in running))
    begin_s = time.perf_counter()
    prompts = []
    for number in range(PROMPTS):
        prompts.append(ask(assembly, f"long {number}", prompt(LONG_PROMPT), 3))
        time.sleep(PAUSE_S)
    for sink in prompts:
        assert sink.ended.wait(TIMEOUT_S)
    end_s = max(sink.token_s[0] for sink in prompts)
    for number in range(DECODING):
        assembly.orchestrator.cancel(f"running {number}")
    gaps_s = [gap for sink in running for gap in sink.gaps_s(begin_s, end_s)]
    return Round(
        gaps_s,
        [sink.token_s[1] - sink.token_s[0] for sink in prompts],
        [sink.token_s[0] - sink.asked_s for sink in prompts],
    )


def wait_until(condition: Callable[[], bool]) -> None:
    end_s = time.perf_counter() + TIMEOUT_S
    while not condition():
        assert time.perf_counter() < end_s, "the sessions do not get on"
        time.sleep(0.005)


def smoothness(rounds: int, console: Console) -> dict[str, dict[str, float]]:
    separate = assemble(CONFIG)
    interleaved = assemble(replace(CONFIG, prefill_slices=None, generate_slices=None), costs=separate.costs)
    deployments = {"interleaved": interleaved, "separate": separate}
    done: dict[str, list[Round]] = {name: [] for name in deployments}
    for number in range(rounds + 1):
        for name, assembly in deployments.items():
            one = one_round(assembly, np.random.default_rng(number))
            if number:  # the first round warms up
                done[name].append(one)
                console.print(f"round {number} {name}: {len(one.gaps_s)} gaps", highlight=False)
    handoffs = separate.orchestrator.stats().counters
    console.print(f"{handoffs.handoffs} sessions handed over, {handoffs.handoff_failures} failed", highlight=False)
    for assembly in deployments.values():
        assembly.orchestrator.close()
    return {name: figures(rounds_done) for name, rounds_done in done.items()}


def figures(rounds: Sequence[Round]) -> dict[str, float]:
    gaps = np.array([gap for one in rounds for gap in one.gaps_s])
    return {
        "gap P50": float(np.quantile(gaps, 0.5)),
        "gap P99": float(np.quantile(gaps, 0.99)),
        "gap longest": float(gaps.max()),
        "first to second token P50": statistics.median(gap for one in rounds for gap in one.second_token_s),
        "time to first token P50": statistics.median(ttft for one in rounds for ttft in one.ttft_s),
    }


def show_smoothness(found: dict[str, dict[str, float]], console: Console) -> None:
    table = Table(title=f"{DECODING} sessions decode, {PROMPTS} prompts of {LONG_PROMPT} tokens arrive (ms)")
    for column in ("", "interleaved", "separate", "interleaved / separate"):
        table.add_column(column, justify="right" if column else "left")
    for name, value in found["interleaved"].items():
        other = found["separate"][name]
        table.add_row(name, f"{value * 1e3:.0f}", f"{other * 1e3:.0f}", f"{value / other:.2f}")
    console.print(table)


# Sending ahead


@dataclass
class Streamed:
    """What sessions did whose context came in pieces, in seconds, and what moved."""

    ttft_s: list[float] = field(default_factory=list)
    second_token_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)


def one_streamed_round(assembly: Assembly, rng: np.random.Generator, found: Streamed) -> None:
    """Contexts come in pieces, one session after the other, while others decode."""

    def piece(length: int) -> list[int]:
        return rng.integers(1000, 40000, length).tolist()

    running = [ask(assembly, f"running {i}", piece(SHORT_PROMPT), 1500) for i in range(STREAMS_BESIDE)]
    wait_until(lambda: all(len(sink.token_s) > 3 for sink in running))
    begin_s = time.perf_counter()
    params = SamplingParams(max_tokens=3, ignore_eos=True)
    for number in range(STREAMS):
        sink, name = Asked(0.0), f"stream {number}"
        assembly.orchestrator.open(sink=sink, session_id=name, params=params, content=piece(PIECE))
        for _ in range(LONG_PROMPT // PIECE - 2):
            time.sleep(PIECE_PAUSE_S)
            assembly.orchestrator.append(name, piece(PIECE))
        time.sleep(PIECE_PAUSE_S)
        sink.asked_s = time.perf_counter()
        assembly.orchestrator.append(name, piece(PIECE), final=True)
        assert sink.ended.wait(TIMEOUT_S)
        found.ttft_s.append(sink.token_s[0] - sink.asked_s)
        found.second_token_s.append(sink.token_s[1] - sink.token_s[0])
    end_s = time.perf_counter()
    for number in range(STREAMS_BESIDE):
        assembly.orchestrator.cancel(f"running {number}")
    found.gaps_s += [gap for sink in running for gap in sink.gaps_s(begin_s, end_s)]


def sending_ahead(rounds: int, console: Console) -> dict[str, dict[str, float]]:
    """The same two engines, with and without blocks that leave before their session."""
    with_it = assemble(CONFIG)
    without = assemble(replace(CONFIG, send_ahead=False), costs=with_it.costs)
    deployments = {"without": without, "ahead": with_it}
    found: dict[str, dict[str, float]] = {}
    done = {name: Streamed() for name in deployments}
    for number in range(rounds + 1):
        for name, assembly in deployments.items():
            one_streamed_round(assembly, np.random.default_rng(number), done[name] if number else Streamed())
        console.print(f"round {number} of {rounds}", highlight=False)
    for name, assembly in deployments.items():
        counters, streamed = assembly.orchestrator.stats().counters, done[name]
        found[name] = {
            "time to first token from the last piece P50": statistics.median(streamed.ttft_s),
            "first to second token P50": statistics.median(streamed.second_token_s),
            "first to second token longest": max(streamed.second_token_s),
            "gap of those who decode P50": float(np.quantile(streamed.gaps_s, 0.5)),
            "gap of those who decode P99": float(np.quantile(streamed.gaps_s, 0.99)),
        }
        moved = f"{counters.ahead_blocks} blocks ahead, {counters.handoff_blocks} after the first token"
        console.print(f"{name}: {counters.handoffs} sessions handed over, {moved}", highlight=False)
        assembly.orchestrator.close()
    return found


def show_ahead(found: dict[str, dict[str, float]], console: Console) -> None:
    table = Table(title=f"contexts of {LONG_PROMPT} tokens come in {LONG_PROMPT // PIECE} pieces (ms)")
    for column in ("", "nothing ahead", "ahead", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    for name, value in found["without"].items():
        other = found["ahead"][name]
        table.add_row(name, f"{value * 1e3:.0f}", f"{other * 1e3:.0f}", f"{value / other:.2f}")
    console.print(table)


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Fewer rounds.")
@click.option("--only", type=click.Choice(["smoothness", "ahead"]), help="Only this part.")
@click.option("--out", default=Path("out/separate"), show_default=True, type=click.Path(path_type=Path))
def main(quick: bool, only: str | None, out: Path) -> None:
    """Runs both parts and prints a table of each."""
    console = Console(width=120)
    others = ForeignCores()
    devices_of_all(Slice.parse_all("cpu=3"))  # before anything runs there
    rounds = 2 if quick else 5
    content: dict[str, object] = {}
    if only != "ahead":
        found = smoothness(rounds, console)
        show_smoothness(found, console)
        content["smoothness"] = found
        gc.collect()  # the weights: cycles keep them
    if only != "smoothness":
        found = sending_ahead(rounds, console)
        show_ahead(found, console)
        content["ahead"] = found
    console.print(f"other programs kept {others.average():.2f} cores busy", highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    content["foreign_cores"] = others.average()
    (out / "separate.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
