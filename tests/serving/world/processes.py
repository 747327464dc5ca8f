"""The processes of a world, as a user starts them."""

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from serving.client import Client, SamplingParams
from tests.serving.test_cli import ENVIRONMENT, S2L
from tests.serving.world.harness import free_ports

TIMEOUT_S = 120.0
OUTPUT_TOKENS = 12
PARAMS = SamplingParams(max_tokens=OUTPUT_TOKENS, ignore_eos=True)
SIZES = (
    *("--model", "tiny-random", "--max-model-len", "48", "--block-size", "4", "--kv-blocks", "14"),
    *("--token-budget", "4", "--max-batch", "2", "--max-sessions", "6", "--quiet"),
)


class Process:
    """`s2l serve` in a process."""

    def __init__(self, folder: Path, name: str, *options: str) -> None:
        self.name = name
        self._ready = folder / f"{name}.json"
        self._ready.unlink(missing_ok=True)
        self._said = folder / f"{name}.txt"
        command = [*S2L, "serve", *SIZES, "--ready-file", str(self._ready), *options]
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

    @property
    def said(self) -> str:
        """What it wrote to stderr."""
        return self._said.read_text()[-3000:]

    def status(self, timeout_s: float = TIMEOUT_S) -> int:
        """With which it ended; waits for that."""
        return self.process.wait(timeout_s)


class World:
    """All processes of an engine.

    Attributes:
      ranks: in order.
    """

    def __init__(self, folder: Path, *options: str, size: int = 2, devices: int = 2, silence_s: float = 5.0) -> None:
        common = (
            *("--slices", f"cpu={devices}", "--world-size", str(size), "--world-silence-s", str(silence_s)),
            *("--world-address", f"127.0.0.1:{free_ports()}", "--cache-dir", str(folder / "cache")),
        )
        self.ranks = [
            Process(folder, "rank-0", *common, "--world-rank", "0", "--port", "0", "--http-port", "0", *options)
        ]
        self.ranks += [Process(folder, f"rank-{rank}", *common, "--world-rank", str(rank)) for rank in range(1, size)]

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


def answer(client: Client, number: int) -> list[int]:
    """Streams a context and returns what is said to it."""
    with client.session(PARAMS) as session:
        for keep, piece in pieces(number):
            session.update(piece, keep_tokens=keep)
        session.finish()
        return [token_id for token in session.tokens() for token_id in token.ids]
