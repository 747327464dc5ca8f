"""The file that says where a server listens, for scripts that wait for it."""

import json
import os
from pathlib import Path


def write_ready_file(path: Path, host: str, port: int, http_port: int | None) -> None:
    """Writes a JSON object with host, ports and pid; it appears complete or not at all, so a script may wait for it."""
    partial = path.with_name(path.name + ".partial")
    address = {"host": host, "port": port, "http_port": http_port, "pid": os.getpid()}
    partial.write_text(json.dumps(address), encoding="utf-8")
    partial.replace(path)
