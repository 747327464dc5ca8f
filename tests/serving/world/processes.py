"""The processes of a world, as a user starts them."""

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from serving.client import SamplingParams
from tests.serving.test_cli import ENVIRONMENT, S2L
from tests.serving.world.harness import free_ports

TIMEOUT_S = 120.0
SILENCE_S = 3.0
OUTPUT_TOKENS = 12
PARAMS = SamplingParams(max_tokens=OUTPUT_TOKENS, ignore_eos=True)
SIZES = (
    *("--max-model-len", "48", "--block-size", "4", "--kv-blocks", "14"),
    *("--token-budget", "4", "--max-batch", "2", "--max-sessions", "6", "--quiet"),
)
SMALLEST = ("--token-budget", "2")  # fewest executables to compile


@dataclass(frozen=True)
class Place:
    """Where processes write: what is of one test, and executables, which are kept."""

    folder: Path
    cache: Path


class Process:
    """`s2l serve` in a process."""

    def __init__(self, place: Place, name: str, *options: str) -> None:
        self._ready = place.folder / f"{name}.json"
        self._said = place.folder / f"{name}.txt"
        command = [*S2L, "serve", *SIZES, "--cache-dir", str(place.cache), "--ready-file", str(self._ready), *options]
        with self._said.open("w") as said:
            self.process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=said)

    @property
    def port(self) -> int:
        """Where it listens; waits until it does."""
        end_s = time.monotonic() + TIMEOUT_S
        while not self._ready.exists():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end_s
            time.sleep(0.02)
        return int(json.loads(self._ready.read_text())["port"])

    def send(self, number: int) -> None:
        """Sends a signal."""
        self.process.send_signal(number)

    @property
    def said(self) -> str:
        """What it wrote to stderr."""
        return self._said.read_text()[-3000:]

    def status(self, timeout_s: float = TIMEOUT_S) -> int:
        """With which it ended; waits for that."""
        return self.process.wait(timeout_s)


class World:
    """All processes of an engine.

    Args:
      place: for what they write.
      options: of all of them.
      server: of rank 0 only.
      size: how many there are.
      devices: how many they have together.

    Attributes:
      ranks: the processes, in order.
    """

    def __init__(
        self, place: Place, *options: str, server: Sequence[str] = ("--http-port", "0"), size: int = 2, devices: int = 2
    ) -> None:
        common = (
            *("--slices", f"cpu={devices}", "--world-size", str(size), "--world-silence-s", str(SILENCE_S)),
            *("--world-address", f"127.0.0.1:{free_ports()}"),
            *(options if "--model" in options else ("--model", "tiny-random", *options)),
        )
        self.ranks = [Process(place, "rank-0", *common, "--world-rank", "0", "--port", "0", *server)]
        self.ranks += [Process(place, f"rank-{rank}", *common, "--world-rank", str(rank)) for rank in range(1, size)]

    @property
    def target(self) -> str:
        """Where clients find it; waits until it is ready."""
        return f"grpc://127.0.0.1:{self.ranks[0].port}"


@contextmanager
def ended(processes: Sequence[Process]) -> Iterator[None]:
    """Leaves none behind; the sequence may grow meanwhile."""
    try:
        yield
    finally:
        for process in processes:
            process.process.kill()
            process.process.wait(TIMEOUT_S)


def pieces(number: int) -> list[tuple[int, list[int]]]:
    """A context that comes in pieces: for each, how many tokens stay of what there is, and what follows these."""
    whole = [(number * 31 + 7 * index) % 250 for index in range(30)]
    other = [(token + 3) % 250 for token in whole]
    return [(0, whole[:11]), (11, other[11:20]), (14, whole[14:25]), (25, whole[25:])]


def context(number: int) -> list[int]:
    """The same, when it is complete."""
    tokens: list[int] = []
    for keep, piece in pieces(number):
        tokens = tokens[:keep] + piece
    return tokens
