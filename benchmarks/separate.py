"""Do long prefills disturb those who are decoding? One engine for all against two with roles of their own.

    python benchmarks/separate.py            smollm2-135m, about five minutes
    python benchmarks/separate.py --quick    fewer rounds

Some sessions decode while long prompts arrive. Both deployments stand side by side in this process and take turns, so
the machine is the same for both: `interleaved` is one engine on one CPU device, `separate` a prefill and a generate
engine on two. Gaps between two tokens of one session are taken while prompts are being computed; the first gap of a
session, in which its KV moves, is reported by itself.

Then one engine hands pages to another, alone and beside a decoding engine: throughput against a plain copy of as many
bytes, and how much of the shorter of the two is hidden in the other.

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
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from cost_profiles.quiet import ForeignCores
from s2l_jax.core.ids import SessionId, SlotId
from s2l_jax.core.params import SamplingParams
from s2l_jax.core.plan import Chunk, StepPlan
from s2l_jax.engine.buckets import copy_runs
from s2l_jax.engine.engine import JaxEngine
from s2l_jax.orchestrator.events import DoneEvent, FailedEvent, SinkEvent, TokenEvent
from s2l_jax.transport.in_process import InProcessTransport
from serving.assembly import Assembly, assemble, build_all
from serving.config import ServeConfig
from serving.devices import devices_of_all
from serving.slices import Slice

CONFIG = ServeConfig(
    max_model_len=2048, kv_blocks=640, max_batch=16, max_sessions=24, host_kv_gib=0, prefill_slices="cpu=1",
    generate_slices="cpu=1",
)  # fmt: skip
DECODING, SHORT_PROMPT, LONG_PROMPT, PROMPTS, PAUSE_S = 6, 32, 1024, 4, 0.5
MOVED_PAGES, MOVES, DECODES, DECODE_STEPS = 128, 4, 8, 8
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


# Hand-off by itself


class Link:
    """Two engines of one process, and the pages between them, driven without an orchestrator."""

    def __init__(self, source: JaxEngine, target: JaxEngine) -> None:
        self.source, self.target = source, target
        self.transport = InProcessTransport()
        self.page_bytes = 0
        for engine in (source, target):
            engine.warmup()

    def move(self, pages: int) -> float:
        """Seconds that a number of pages take, from the first gather to the last scatter."""
        begin_s = time.perf_counter()
        futures = []
        for run in copy_runs(pages):
            contents = self.source.gather(range(pages)[run])
            futures.append((run, self.transport.fetch(self.transport.offer(contents), self.target.place)))
        for run, future in futures:
            placed = future.result()
            self.page_bytes = sum(piece.nbytes for piece in placed) // (run.stop - run.start)
            self.target.scatter(range(pages)[run], placed)
        self.target.place(self.target.gather([0]))  # behind the last scatter
        return time.perf_counter() - begin_s


class RawCopy:
    """NumPy copies between two places of memory, in runs as long as those of pages."""

    def __init__(self, byte_count: int, run_bytes: int) -> None:
        self._source, self._target = np.ones(byte_count, np.uint8), np.ones(byte_count, np.uint8)  # touched, both
        self._run_bytes = run_bytes

    def seconds(self) -> float:
        """Seconds that all of it takes."""
        begin_s = time.perf_counter()
        for start in range(0, len(self._source), self._run_bytes):
            run = slice(start, start + self._run_bytes)
            self._target[run] = self._source[run]
        return time.perf_counter() - begin_s


class Decoding:
    """An engine that decodes: each call runs some steps of a few sessions, on a thread of its own."""

    def __init__(self, engine: JaxEngine) -> None:
        self._engine = engine
        self._owner = ThreadPoolExecutor(1)
        self._position = 0
        per_session = engine.config.num_blocks // DECODES
        self._tables = [np.arange(i * per_session, (i + 1) * per_session, dtype=np.int32) for i in range(DECODES)]

    def run(self) -> Future[float]:
        """Begins; gives the seconds it took."""
        return self._owner.submit(self._steps)

    def close(self) -> None:
        """Ends the thread."""
        self._owner.shutdown()

    def _steps(self) -> float:
        begin_s = time.perf_counter()
        token = np.array([5], np.int32)
        for _ in range(DECODE_STEPS):
            chunks = [
                Chunk(SessionId(f"{slot}"), SlotId(slot), self._position, token, table)
                for slot, table in enumerate(self._tables)
            ]
            self._engine.execute(StepPlan(self._position + 1, tuple(chunks), ()))
            self._position += 1
        return time.perf_counter() - begin_s


def handoff(rounds: int) -> dict[str, float]:
    """Engines 0 and 1 exchange pages while engine 2 decodes."""
    built = build_all(replace(CONFIG, generate_slices="cpu=1,cpu=1"))
    link = Link(built[0].engine, built[1].engine)
    built[2].engine.warmup()
    decoding = Decoding(built[2].engine)
    link.move(MOVED_PAGES)
    decoding.run().result()
    raw = RawCopy(MOVED_PAGES * link.page_bytes, 8 * link.page_bytes)
    moves: list[float] = []
    copies: list[float] = []
    alone: list[float] = []
    both: list[float] = []
    for _ in range(rounds):
        moves.append(sum(link.move(MOVED_PAGES) for _ in range(MOVES)))
        copies.append(raw.seconds())
        alone.append(decoding.run().result())
        begin_s = time.perf_counter()
        decodes = decoding.run()
        for _ in range(MOVES):
            link.move(MOVED_PAGES)
        decodes.result()
        both.append(time.perf_counter() - begin_s)
    decoding.close()
    link.transport.close()
    moves_s, alone_s, both_s = map(statistics.median, (moves, alone, both))
    gigabytes = MOVED_PAGES * link.page_bytes / 1e9
    return {
        "pages": MOVED_PAGES,
        "GB": gigabytes,
        "hand-off GB/s": MOVES * gigabytes / moves_s,
        "raw copy GB/s": gigabytes / statistics.median(copies),
        "hand-offs alone s": moves_s,
        "decodes alone s": alone_s,
        "both s": both_s,
        "hidden": (alone_s + moves_s - both_s) / min(alone_s, moves_s),
    }


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Fewer rounds.")
@click.option("--only-handoff", is_flag=True, help="Only the second part.")
@click.option("--out", default=Path("out/separate"), show_default=True, type=click.Path(path_type=Path))
def main(quick: bool, only_handoff: bool, out: Path) -> None:
    """Runs both parts and prints a table of each."""
    console = Console(width=120)
    others = ForeignCores()
    devices_of_all(Slice.parse_all("cpu=3"))  # before anything runs there
    found = {} if only_handoff else smoothness(2 if quick else 5, console)
    gc.collect()  # the weights: cycles keep them
    if found:
        show_smoothness(found, console)
    moved = handoff(5 if quick else 15)
    console.print("  ".join(f"{name}: {value:.3g}" for name, value in moved.items()), highlight=False)
    console.print(f"hand-off / raw copy: {moved['hand-off GB/s'] / moved['raw copy GB/s']:.2f}", highlight=False)
    console.print(f"other programs kept {others.average():.2f} cores busy", highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    content = {"smoothness": found, "handoff": moved, "foreign_cores": others.average()}
    (out / "separate.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
