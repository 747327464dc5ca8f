"""Servers behind a router on the Dynamo runtime, as a user starts them: on loopback, found by way of files."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.client import Client, SamplingParams
from serving.client.types import ServerStats
from tests.serving.test_cli import ENVIRONMENT, S2L

pytest.importorskip("dynamo.runtime", reason="it is in the extra `dynamo`")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

SIZES = (
    *("--model", "tiny-random", "--max-model-len", "256", "--block-size", "4", "--kv-blocks", "128"),
    *("--token-budget", "16", "--max-batch", "4", "--max-sessions", "8", "--host-kv-gib", "0", "--quiet"),
)
TIMEOUT_S = 120.0
PROMPT = "Once upon a time there was a server that"


class Process:
    """`s2l serve` or `s2l route`."""

    def __init__(self, folder: Path, name: str, command: str, *options: str) -> None:
        self._ready, log = folder / f"{name}.json", folder / f"{name}.log"
        joining = ("--dynamo", "test", "--dynamo-discovery", "file", "--port", "0", "--ready-file", str(self._ready))
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [*S2L, command, *joining, *options],
                env={**ENVIRONMENT, "DYN_FILE_KV": str(folder / "discovery"), "DYN_LOG": "warn"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        end_s = time.monotonic() + TIMEOUT_S
        while not self._ready.exists():
            assert self._process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < end_s
            time.sleep(0.05)
        self.port = int(json.loads(self._ready.read_text())["port"])
        self.pid = self._process.pid

    def end(self, number: int = signal.SIGTERM) -> int:
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self._process.wait(TIMEOUT_S)


class Deployment:
    """Two servers and a router, and how to see which of the servers does what."""

    def __init__(self, folder: Path, cache_dir: Path) -> None:
        serve = (*SIZES, "--cache-dir", str(cache_dir), "--http-port", "0")
        self.servers = [Process(folder, f"server-{index}", "serve", *serve) for index in range(2)]
        route = ("--model", "tiny-random", "--block-size", "4", "--http-port", "0")
        self.router = Process(folder, "router", "route", *route)

    @property
    def target(self) -> str:
        return f"grpc://127.0.0.1:{self.router.port}"

    def busy(self) -> list[Process]:
        """Servers that have a session."""
        return [one for one in self.servers if sum(_stats(one).sessions.values())]


def _stats(server: Process) -> ServerStats:
    with Client(f"grpc://127.0.0.1:{server.port}") as client:
        return client.stats()


@pytest.fixture
def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    # Executables are kept, so that only the first run compiles.
    one = Deployment(tmp_path, request.config.cache.mkdir("serving-dynamo"))
    try:
        yield one
        assert one.router.end() == 0
        assert all(server.end() in {0, -signal.SIGKILL} for server in one.servers)
    finally:
        for process in (one.router, *one.servers):
            process.end(signal.SIGKILL)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(max_tokens=120, ignore_eos=True),
        SamplingParams(max_tokens=120, ignore_eos=True, temperature=1.0, seed=5, logprobs=1),
    ],
    ids=["greedy", "sampled"],
)
def test_a_server_killed_in_the_middle_of_an_answer_is_not_noticed(
    deployment: Deployment, params: SamplingParams
) -> None:
    with Client(deployment.target) as client, client.session(params) as session:
        session.append(PROMPT[:9])
        session.append(PROMPT[9:], final=True)
        tokens = session.tokens()
        for _ in range(5):
            next(tokens)
        (killed,) = deployment.busy()
        os.kill(killed.pid, signal.SIGKILL)
        result = session.result()
    (left,) = [one for one in deployment.servers if one is not killed]
    with Client(f"grpc://127.0.0.1:{left.port}") as client:
        right = client.generate(PROMPT, params)
    assert result.token_ids == right.token_ids
    assert result.text == right.text
    assert len(result.logprobs) == (0 if params.logprobs is None else 120)
    assert result.finish_reason == "length"
    assert result.done.prompt_tokens == right.done.prompt_tokens
    times_s = result.token_times_s
    print(f"\nthe longest gap between two tokens: {1000 * max(map(float.__sub__, times_s[1:], times_s)):.0f} ms")
    assert not sum(_stats(left).sessions.values()), "nothing is left of the session"


def test_a_stream_whose_server_is_killed_keeps_its_context(deployment: Deployment) -> None:
    params = SamplingParams(max_tokens=16, ignore_eos=True)
    with Client(deployment.target) as client, client.session(params) as session:
        session.append("The cat is called Mia. ")
        session.append("The dog is called Tom. ")
        time.sleep(1)
        (serving,) = deployment.busy()
        os.kill(serving.pid, signal.SIGKILL)
        session.update("The dog is called Rex. ", keep_chars=23)
        session.append("The name of the dog is", final=True)
        result = session.result()
    (left,) = [one for one in deployment.servers if one is not serving]
    with Client(f"grpc://127.0.0.1:{left.port}") as client:
        right = client.generate("The cat is called Mia. The dog is called Rex. The name of the dog is", params)
    assert result.token_ids == right.token_ids
    assert result.done.prompt_tokens == right.done.prompt_tokens


def test_what_begins_alike_goes_where_the_beginning_is(deployment: Deployment) -> None:
    params = SamplingParams(max_tokens=2)
    prefixes = ["one two three four five six seven", "eins zwei drei vier fuenf sechs sieben"]
    with Client(deployment.target) as client:
        with client.session(params, content=prefixes[0]) as session:  # keeps one of the servers busy
            client.generate(prefixes[1], params)
            session.finish()
            session.result()
        assert all(_stats(server).steps for server in deployment.servers), "each has one of them"
        asked = [f"{prefix} and {index}" for index in range(3) for prefix in prefixes]
        reused = [client.generate(question, params).done.reused_tokens for question in asked]
    assert min(reused) >= 24, "all but what is new"
