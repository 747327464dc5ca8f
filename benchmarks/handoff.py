"""How fast KV gets from one engine to another, what of it costs time, and whether it is hidden beside decoding.

    python benchmarks/handoff.py            smollm2-135m, about two minutes
    python benchmarks/handoff.py --quick    fewer rounds

1. A hand-off within one process: gather, place and scatter by themselves, all together, and NumPy's copy of as many
   bytes in runs of the same length.
2. The same hand-offs while a third engine decodes: how long its steps take with and without them.
3. Between two processes over loopback: pages through gRPC messages, there and back, beside the same plain copy.

All engines are CPU devices of one machine and share its cores, so the second part shows what is left to gain there, not
what devices with their own processors gain. Writes handoff.json. Wants a quiet machine.
"""

import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from cost_profiles.quiet import ForeignCores
from s2l_jax.core.ids import SessionId, SlotId
from s2l_jax.core.plan import Chunk, StepPlan
from s2l_jax.engine.buckets import COPIED_PAGES, copy_runs
from s2l_jax.transport.in_process import InProcessTransport
from serving.config import ServeConfig
from serving.devices import devices_of_all
from serving.slices import Slice

CONFIG = ServeConfig(
    max_model_len=2048, kv_blocks=640, max_batch=16, max_sessions=24, host_kv_gib=0, prefill_slices="cpu=1",
    generate_slices="cpu=1,cpu=1",
)  # fmt: skip
MOVED_PAGES, MOVES, DECODES, DECODE_STEPS = 128, 4, 8, 8
RUN_PAGES = COPIED_PAGES[0]


def seconds(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    begin_s = time.perf_counter()
    call()
    return time.perf_counter() - begin_s


class Link:
    """Two engines of one process, and the pages between them, driven without an orchestrator."""

    def __init__(self, source: Any, target: Any) -> None:
        self.source, self.target = source, target
        self.transport = InProcessTransport()
        for engine in (source, target):
            engine.warmup()
        (contents,) = source.gather(range(RUN_PAGES))
        self.page_bytes = contents.nbytes // RUN_PAGES

    def move(self, pages: int = MOVED_PAGES) -> None:
        """Moves pages: ends when the last one has been scattered."""
        futures = []
        for run in copy_runs(pages):
            contents = self.source.gather(range(pages)[run])
            futures.append((run, self.transport.fetch(self.transport.offer(contents), self.target.place)))
        for run, future in futures:
            self.target.scatter(range(pages)[run], future.result())
        self.wait()

    def wait(self) -> None:
        """Until the target has scattered all it was given."""
        self.target.place(self.target.gather([0]))

    def stages(self) -> dict[str, float]:
        """Seconds of each stage for all pages, run by run, each waited for."""
        runs = [range(MOVED_PAGES)[run] for run in copy_runs(MOVED_PAGES)]
        found = dict.fromkeys(("gather", "place", "scatter"), 0.0)
        for run in runs:
            begin_s = time.perf_counter()
            contents = self.source.gather(run)
            contents[0].block_until_ready()
            gathered_s = time.perf_counter()
            placed = self.transport.fetch(self.transport.offer(contents), self.target.place).result()
            placed_s = time.perf_counter()
            self.target.scatter(run, placed)
            self.wait()
            found["gather"] += gathered_s - begin_s
            found["place"] += placed_s - gathered_s
            found["scatter"] += time.perf_counter() - placed_s
        return found


class RawCopy:
    """NumPy copies between two places of memory, in runs as long as those of pages."""

    def __init__(self, byte_count: int, run_bytes: int) -> None:
        self._source, self._target = np.ones(byte_count, np.uint8), np.ones(byte_count, np.uint8)  # touched, both
        self._run_bytes = run_bytes

    def run(self) -> None:
        """Copies all of it."""
        for start in range(0, len(self._source), self._run_bytes):
            run = slice(start, start + self._run_bytes)
            self._target[run] = self._source[run]


class Decoding:
    """An engine that decodes: each call runs some steps of a few sessions, on a thread of its own."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._owner = ThreadPoolExecutor(1)
        self._position = 0
        per_session = engine.config.num_blocks // DECODES
        self._tables = [np.arange(i * per_session, (i + 1) * per_session, dtype=np.int32) for i in range(DECODES)]

    def run(self) -> Future[float]:
        """Begins; gives the seconds it took."""
        return self._owner.submit(lambda: seconds(self._steps))

    def close(self) -> None:
        """Ends the thread."""
        self._owner.shutdown()

    def _steps(self) -> None:
        token = np.array([5], np.int32)
        for _ in range(DECODE_STEPS):
            chunks = [
                Chunk(SessionId(f"{slot}"), SlotId(slot), self._position, token, table)
                for slot, table in enumerate(self._tables)
            ]
            self._engine.execute(StepPlan(self._position + 1, tuple(chunks), ()))
            self._position += 1


def in_one_process(rounds: int) -> dict[str, float]:
    """Engines 0 and 1 exchange pages, alone and while engine 2 decodes."""
    from serving.assembly import build_all

    built = build_all(CONFIG)
    link = Link(built[0].engine, built[1].engine)
    built[2].engine.warmup()
    decoding = Decoding(built[2].engine)
    raw = RawCopy(MOVED_PAGES * link.page_bytes, RUN_PAGES * link.page_bytes)
    taken: dict[str, list[float]] = {}

    def note(name: str, took_s: float) -> None:
        taken.setdefault(name, []).append(took_s)

    for _ in range(rounds + 1):
        for stage, took_s in link.stages().items():
            note(stage, took_s)
        note("hand-off", sum(seconds(link.move) for _ in range(MOVES)) / MOVES)
        note("raw copy", seconds(raw.run))
        note("steps alone", decoding.run().result())
        begin_s, moves, decodes = time.perf_counter(), 0, decoding.run()
        while not decodes.done():
            link.move()
            moves += 1
        took_s = time.perf_counter() - begin_s
        note("steps beside hand-offs", decodes.result())
        note("hand-off beside steps", took_s / moves)
    decoding.close()
    link.transport.close()
    medians = {name: statistics.median(all_s[1:]) for name, all_s in taken.items()}  # the first round warms up
    return medians | {"GB": MOVED_PAGES * link.page_bytes / 1e9, "page bytes": float(link.page_bytes)}


def serve_pages(shape: Sequence[int], pipe: Connection) -> None:
    """The other process: an engine that only keeps pages."""
    from serving.protos.s2l.v1 import engine_pb2 as pb
    from serving.remote.host import EngineHost
    from serving.remote.server import EngineServer

    host = EngineHost(Shelf(shape), Shelf(shape), tuple(shape), "float32")  # type: ignore[arg-type]
    server = EngineServer(host, pb.EngineDescription(), "127.0.0.1:0")
    pipe.send(server.port)
    pipe.recv()
    server.stop()


class Shelf:
    """Pages that come and go; nothing computes."""

    def __init__(self, shape: Sequence[int]) -> None:
        self._pages = np.ones((RUN_PAGES, *shape), np.float32)

    def gather(self, blocks: Sequence[int]) -> tuple[np.ndarray]:
        return (self._pages[: len(blocks)],)

    def place(self, pages: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        return pages

    def scatter(self, blocks: Sequence[int], pages: tuple[np.ndarray, ...]) -> None:
        pass

    def is_ready(self) -> bool:
        return False

    def close(self) -> None:
        pass


def over_loopback(rounds: int, page_bytes: int) -> dict[str, float]:
    """Pages to another process and back, in runs; and NumPy's copy of as many bytes."""
    from serving.remote.engine import RemoteEngine

    shape = (page_bytes // 4 // (3 * 16 * 128), 3, 16, 128)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve_pages, args=(shape, there))
    process.start()
    engine = RemoteEngine(f"127.0.0.1:{here.recv()}")
    engine.warmup()
    pages = (np.ones((RUN_PAGES, *shape), np.float32),)
    runs = MOVED_PAGES // RUN_PAGES
    raw = RawCopy(MOVED_PAGES * page_bytes, RUN_PAGES * page_bytes)

    def put() -> None:
        for _ in range(runs):
            engine.place(pages)

    def get() -> None:
        for _ in range(runs):
            engine.gather(range(RUN_PAGES)).fetch()

    found: dict[str, float] = {}
    for name, call in (("there", put), ("back", get), ("raw copy", raw.run)):
        found[name] = statistics.median(seconds(call) for _ in range(rounds + 1))
    engine.close()
    here.send(None)
    process.join()
    return found


def show(found: dict[str, float], loopback: dict[str, float], console: Console) -> None:
    """Prints what was found, as ratios to NumPy's copy."""
    gigabytes = found["GB"]
    table = Table(title=f"{MOVED_PAGES} pages, {gigabytes * 1e3:.0f} MB, in runs of {RUN_PAGES}")
    for column in ("", "GB/s", "of a plain copy"):
        table.add_column(column, justify="right" if column else "left")
    rows = [(name, found[name], found["raw copy"]) for name in ("gather", "place", "scatter", "hand-off")]
    rows += [(f"gRPC, {name}", loopback[name], loopback["raw copy"]) for name in ("there", "back")]
    for name, took_s, raw_s in (*rows, ("plain copy", found["raw copy"], found["raw copy"])):
        table.add_row(name, f"{gigabytes / took_s:.2f}", f"{raw_s / took_s:.2f}")
    console.print(table)
    slower = found["steps beside hand-offs"] / found["steps alone"]
    share = found["hand-off"] / found["hand-off beside steps"]
    text = (
        f"{DECODE_STEPS} steps of {DECODES} sessions take {slower:.2f} times as long while pages are handed over all "
        f"the time, which goes on at {share:.2f} of its own speed: together {1 / slower + share:.2f}, where devices "
        "with processors of their own do 2.00 and one by one gives 1.00"
    )
    console.print(text, highlight=False)


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Fewer rounds.")
@click.option("--out", default=Path("out/handoff"), show_default=True, type=click.Path(path_type=Path))
def main(quick: bool, out: Path) -> None:
    """Runs all parts."""
    console = Console(width=120)
    others = ForeignCores()
    rounds = 5 if quick else 15
    loopback = over_loopback(rounds, 30 * 3 * 16 * 128 * 4)
    devices_of_all(Slice.parse_all("cpu=3"))  # before anything runs there
    found = in_one_process(rounds)
    show(found, loopback, console)
    console.print(f"other programs kept {others.average():.2f} cores busy", highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    content = {"in one process": found, "loopback": loopback, "foreign_cores": others.average()}
    (out / "handoff.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
