"""Servers and engines in processes of their own, to be killed, stopped and started again."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from serving.client import Client
from tests.faults.link import Link
from tests.faults.namespaces import VethLink

START_S = 240.0
MIB = 1 << 20
_ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu"}
_S2L = (sys.executable, "-c", "from serving.cli import main; main()", "serve")
_BREAKDOWNS = ("Traceback (most", "Fatal Python", "Segmentation fault")
_FORESEEN = ("pages of session", "The above exception")
_FAKE = (sys.executable, "-m", "tests.faults.fake_serve")


@dataclass(frozen=True)
class Sizes:
    """Of an engine. `model` None is the fake engine, which starts in a second and checks every plan."""

    model: str | None = None
    kv_blocks: int = 64
    block_size: int = 4
    max_model_len: int = 128
    max_sessions: int = 16
    host_blocks: bool = False

    def command(self, folder: Path) -> list[str]:
        options = [
            *("--max-model-len", str(self.max_model_len), "--block-size", str(self.block_size)),
            *("--kv-blocks", str(self.kv_blocks), "--max-sessions", str(self.max_sessions)),
            *("--token-budget", "32", "--max-batch", "8", "--port", "0"),
        ]
        if self.model is None:
            return [*_FAKE, *options]
        host_kv = () if self.host_blocks else ("--host-kv-gib", "0")
        return [*_S2L, *options, "--model", self.model, *host_kv, "--cache-dir", str(folder), "--quiet"]


class Process:
    """A server or an engine.

    Attributes:
      name: for logs.
      starts: how often it has been started.
    """

    def __init__(self, folder: Path, name: str, command: Sequence[str], namespace: str | None = None) -> None:
        self.name = name
        self.starts = 0
        self._folder = folder
        self._command = [*command]
        self._prefix = [] if namespace is None else ["ip", "netns", "exec", namespace]
        self._ready = folder / f"{name}.json"
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begins to start it; on the port that it had before, if it had one."""
        self.starts += 1
        self._ready.unlink(missing_ok=True)
        command = [*self._prefix, *self._command, "--ready-file", str(self._ready)]
        if self._port:
            command += ["--port", str(self._port)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, env=_ENVIRONMENT, stdout=log, stderr=log)

    @property
    def log(self) -> Path:
        return self._folder / f"{self.name}.log"

    @property
    def port(self) -> int:
        """Where it listens; waits until it does."""
        end_s = time.monotonic() + START_S
        while not self._ready.exists():
            assert self.running.poll() is None, f"{self.name} ended: {self.log.read_text()[-3000:]}"
            assert time.monotonic() < end_s, f"{self.name} does not start: {self.log.read_text()[-3000:]}"
            time.sleep(0.02)
        self._port = int(json.loads(self._ready.read_text())["port"])
        return self._port

    @property
    def running(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None
        return self._process

    @property
    def rss_mib(self) -> float:
        pages = int(Path(f"/proc/{self.running.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MIB

    def send(self, number: signal.Signals) -> None:
        self.running.send_signal(number)

    def kill(self) -> None:
        """As a machine that loses its power does it."""
        self.send(signal.SIGKILL)
        self.running.wait()

    def end(self, timeout_s: float = 60.0) -> int:
        """Asks it to end; returns its exit status."""
        self.send(signal.SIGTERM)
        return self.running.wait(timeout_s)


@dataclass
class Deployment:
    """An orchestrator with an engine of its own, and engines behind links."""

    server: Process
    engines: list[Process]
    links: list[Link | VethLink]
    blocks: int

    @property
    def target(self) -> str:
        return f"grpc://127.0.0.1:{self.server.port}"

    def joined_blocks(self) -> int:
        """Blocks of all engines that work, or are thought to."""
        with Client(self.target, timeout_s=20) as client:
            return client.stats().total_blocks

    def wait_joined(self, timeout_s: float = 60.0, missing: int = 0) -> float:
        """Waits until all engines but so many are at work; returns for how long."""
        begin_s = time.monotonic()
        wanted = self.blocks * (1 + len(self.engines) - missing)
        with Client(self.target, timeout_s=20) as client:
            while (found := client.stats().total_blocks) != wanted:
                assert time.monotonic() - begin_s < timeout_s, f"{found} of {wanted} blocks after {timeout_s:g} s"
                time.sleep(0.02)
        return time.monotonic() - begin_s

    def wait_empty(self, timeout_s: float = 30.0) -> None:
        """Waits until no session is left in any engine; then no block may be held."""
        end_s = time.monotonic() + timeout_s
        with Client(self.target, timeout_s=20) as client:
            while (stats := client.stats()).held_blocks or sum(stats.sessions.values()):
                assert time.monotonic() < end_s, f"left behind: {stats}"
                time.sleep(0.05)
            assert stats.free_blocks == stats.total_blocks, stats

    def tracebacks(self) -> list[str]:
        """Lines of logs that tell of something that nobody foresaw. Pages that get lost are foreseen."""
        found = []
        for process in (self.server, *self.engines):
            lines = [line for line in process.log.read_text(errors="replace").splitlines() if line.strip()]
            for before, line in pairwise(["", *lines]):
                if line.startswith(_BREAKDOWNS) and not any(mark in before for mark in _FORESEEN):
                    found.append(f"{process.name}: {before[-200:]}: {line}")
        return found


@contextmanager
def deployment(
    own: str,
    remote: Sequence[str],
    sizes: Sizes,
    *,
    options: Sequence[str] = (),
    engine_sizes: Sequence[Sizes] | None = None,
    veths: Sequence[VethLink] = (),
    folder: Path | None = None,
) -> Iterator[Deployment]:
    """Starts engines of the roles `remote`, and a server with an engine of role `own` in front.

    Args:
      own: role of the server's own engine.
      remote: roles of the others.
      sizes: of all engines.
      options: more options of all processes.
      engine_sizes: of the remote engines, if they differ.
      veths: ways to the remote engines, which then live in namespaces; without, links go over this process.
      folder: for logs and compiled executables.
    """
    with ExitStack() as stack:
        base = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="s2l-faults-")))
        engines = []
        for index, role in enumerate(remote):
            theirs = sizes if engine_sizes is None else engine_sizes[index]
            host = ["--host", veths[index].host] if veths else []
            command = [*theirs.command(base), "--role", role, *host, *options]
            namespace = veths[index].namespace if veths else None
            engines.append(Process(base, f"{role}-{index + 1}", command, namespace))
            stack.callback(_end, engines[-1])
            engines[-1].start()
        links: list[Link | VethLink] = []
        for index, engine in enumerate(engines):
            port = engine.port
            if veths:
                veths[index].address = f"{veths[index].host}:{port}"
                links.append(veths[index])
            else:
                links.append(Link("127.0.0.1", port))
                stack.callback(links[-1].close)
        command = [*sizes.command(base), "--role", own, *options]
        if sizes.model is not None:
            command += ["--http-port", "0"]
        if links:
            command += ["--peers", ",".join(link.address for link in links)]
        else:
            command[command.index("--role") : command.index("--role") + 2] = []
        server = Process(base, f"server-{own}", command)
        stack.callback(_end, server)
        server.start()
        yield Deployment(server, engines, links, sizes.kv_blocks)


def _end(process: Process) -> None:
    """Leaves no process behind."""
    if process.starts and process.running.poll() is None:
        process.kill()
