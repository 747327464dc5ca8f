"""The fuzzed server as the fuzzers see it: its ports, its health, its memory."""

import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from serving.client import Client
from tests.fuzz.server import IDLE_TIMEOUT_S

_EMPTY_WITHIN_S = IDLE_TIMEOUT_S + 20
_PAGE_BYTES = 4096


@dataclass(frozen=True)
class Target:
    """A running server and what it has written to standard error."""

    grpc_port: int
    http_port: int
    process: subprocess.Popen[str]
    log: IO[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def rss_mib(self) -> float:
        """Memory of the server's process."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * _PAGE_BYTES / 2**20

    def check(self) -> None:
        """Raises AssertionError unless the server lives, answers, has logged no defect and lets everything go."""
        assert self.process.poll() is None, f"the server has ended: {self.said()}"
        with urllib.request.urlopen(f"{self.url}/ready", timeout=10) as answer:
            assert answer.status == 200
        deadline_s = time.monotonic() + _EMPTY_WITHIN_S
        with Client(self.grpc, timeout_s=10) as client:
            while (stats := client.stats()).held_blocks or any(stats.sessions.values()):
                assert time.monotonic() < deadline_s, f"left behind: {stats}"
                time.sleep(0.05)
        assert "Traceback" not in self.said(), self.said()

    def said(self) -> str:
        """What it has logged."""
        self.log.seek(0)
        return self.log.read()


@contextlib.contextmanager
def target(folder: Path) -> Iterator[Target]:
    """Starts a server; its log is kept in `folder`."""
    with (folder / "server.log").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "tests.fuzz.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            assert process.stdout is not None and process.stdin is not None
            line = process.stdout.readline()
            assert line, log.name
            ports = json.loads(line)
            yield Target(ports["grpc"], ports["http"], process, log)
            process.stdin.close()
            process.wait(20)
        finally:
            process.kill()
            process.wait()
