"""A server in a process of its own, as a user would start it."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from s2l_jax.core.errors import Unavailable

_START_TIMEOUT_S = 600.0  # a first start converts the model and compiles everything
_STOP_TIMEOUT_S = 60.0
_POLL_S = 0.1


class ServerProcess:
    """Runs `s2l serve` on a free port from entering to leaving; its own progress goes to this terminal.

    Attributes:
      address: `grpc://HOST:PORT`, once entered.
    """

    def __init__(self, arguments: list[str]) -> None:
        self._arguments = arguments
        self.address = ""

    def __enter__(self) -> Self:
        with tempfile.TemporaryDirectory() as folder:
            ready = Path(folder) / "ready.json"
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-c", "from serving.cli import main; main()", "serve", "--port", "0"),
                    *("--http-port", "0", "--ready-file", str(ready), *self._arguments),
                ],
                stdout=subprocess.DEVNULL,
                process_group=0,  # ctrl-C is for the replay, which then ends the server in order
            )
            try:
                where = self._wait_for(ready)
            except BaseException:
                self._stop()
                raise
        self.address = f"grpc://{where['host']}:{where['port']}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def cpu_s(self) -> float | None:
        """Processor time that the server has used so far, None where the system does not tell."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        user_ticks, system_ticks = int(fields[11]), int(fields[12])
        return (user_ticks + system_ticks) / os.sysconf("SC_CLK_TCK")

    def _wait_for(self, ready: Path) -> dict[str, object]:
        give_up_s = time.monotonic() + _START_TIMEOUT_S
        while not ready.exists():
            if (status := self._process.poll()) is not None:
                raise Unavailable(f"the server ended with status {status} before it was ready; its messages are above")
            if time.monotonic() > give_up_s:
                raise Unavailable(f"the server was not ready within {_START_TIMEOUT_S:.0f} s")
            time.sleep(_POLL_S)
        where: dict[str, object] = json.loads(ready.read_text(encoding="utf-8"))
        return where

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
