"""Engines in processes of their own, as a user starts them, and what a kill makes of it."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving.client import Client, SamplingParams
from tests.serving.certificates import certificates
from tests.serving.test_cli import ENVIRONMENT, S2L

SIZES = (
    *("--model", "tiny-random", "--max-model-len", "64", "--block-size", "4", "--kv-blocks", "32"),
    *("--token-budget", "8", "--max-batch", "2", "--max-sessions", "6", "--host-kv-gib", "0", "--quiet"),
)
TIMEOUT_S = 120.0
PARAMS = SamplingParams(max_tokens=24, ignore_eos=True)


class Server:
    """`s2l serve` in a process."""

    def __init__(self, folder: Path, name: str, *options: str | Path) -> None:
        self._ready = folder / f"{name}.json"
        self._ready.unlink(missing_ok=True)
        command = [*S2L, "serve", *SIZES, "--cache-dir", str(folder), "--ready-file", str(self._ready), *options]
        self.process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    @property
    def port(self) -> int:
        """Where it listens; waits until it does."""
        end_s = time.monotonic() + TIMEOUT_S
        while not self._ready.exists():
            assert self.process.poll() is None, self.process.communicate()[1].decode()[-2000:]
            assert time.monotonic() < end_s
            time.sleep(0.02)
        return int(json.loads(self._ready.read_text())["port"])

    def end(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.communicate(timeout=TIMEOUT_S)


@contextmanager
def ended(servers: Sequence[Server]) -> Iterator[None]:
    """Leaves no process behind."""
    try:
        yield
    finally:
        for server in servers:
            if server.process.poll() is None:
                server.end(signal.SIGKILL)


def answer(target: str, seed: int, after: int = 0) -> Iterator[list[int]]:
    """Yields an answer as far as `after` tokens, then all of it."""
    prompt = [(seed + 7 * index) % 250 for index in range(30)]
    ids: list[int] = []
    with Client(target) as client, client.session(PARAMS) as session:
        session.append(prompt)
        session.finish()
        for token in session.tokens():
            ids += token.ids
            if len(ids) == after:
                yield ids
    yield ids


@pytest.mark.timeout(280)
def test_a_killed_engine_changes_no_answer_and_joins_again(tmp_path: Path) -> None:
    files = certificates()
    tls = ("--tls-cert", files.cert, "--tls-key", files.key, "--tls-client-ca", files.ca)
    generate = Server(tmp_path, "generate", "--role", "generate", "--port", "0", *tls)
    servers = [generate]
    with ended(servers):
        port = generate.port
        options = ("--role", "prefill", "--peers", f"127.0.0.1:{port}", "--port", "0", "--http-port", "0")
        options += ("--step-timeout-s", "60")
        shown = ("--peer-tls-cert", files.client_cert, "--peer-tls-key", files.client_key)
        prefill = Server(tmp_path, "prefill", *options, "--peer-tls-ca", files.ca, *shown)
        servers.append(prefill)
        target = f"grpc://127.0.0.1:{prefill.port}"
        first, second = (list(answer(target, seed))[-1] for seed in (1, 2))
        assert len(first) == len(second) == 24
        assert first != second

        running = answer(target, 1, after=6)
        assert next(running) == first[:6]
        generate.end(signal.SIGKILL)
        assert list(running)[-1] == first
        assert list(answer(target, 2))[-1] == second
        with Client(target) as client:
            assert client.stats().total_blocks == 32

        again = Server(tmp_path, "generate", "--role", "generate", "--port", str(port), *tls)
        servers.append(again)
        assert again.port == port
        end_s = time.monotonic() + TIMEOUT_S
        with Client(target) as client:
            while client.stats().total_blocks < 64:
                assert time.monotonic() < end_s
                time.sleep(0.1)
        running = answer(target, 2, after=6)
        assert next(running) == second[:6]
        again.process.send_signal(signal.SIGSTOP)  # the connection stays, and nobody answers
        assert list(running)[-1] == second
        again.process.send_signal(signal.SIGCONT)
        prefill.end()
        again.end()
        assert prefill.process.returncode == again.process.returncode == 0
