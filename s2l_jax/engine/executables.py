"""Compiled device code: made ahead of traffic, kept on disk between starts.

A start without the store traces and compiles every bucket, minutes for a model of some size. With it, executables are
read back whole, without tracing. The folder of an entry is named by a fingerprint of everything that decides what the
compiler would make: our source code, versions, device, shapes and options. Anything unexpected in the store means
compiling.
"""

import hashlib
import os
import pickle
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import jax
import jaxlib
from jax.experimental import serialize_executable
from jax.stages import Compiled, Lowered

import kernels_pallas
from s2l_jax import models
from s2l_jax.engine.protocol import Progress

_KEPT_FINGERPRINTS = 4
_DIGEST_BYTES = 32
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ImportError,
    RuntimeError,
    pickle.PickleError,
)

type Lower = Callable[[], Lowered]


class ExecutableStore:
    """Executables on disk, under one fingerprint.

    The files hold pickles and machine code: whoever can write to `directory` can run code in this process.
    """

    def __init__(self, directory: Path, fingerprint: str) -> None:
        self._root = directory / "executables"
        self._home = self._root / fingerprint

    def load(self, name: str) -> Compiled | None:
        """The executable kept under `name`, or None if there is none that can be read."""
        try:
            content = (self._home / name).read_bytes()
            if hashlib.sha256(content[_DIGEST_BYTES:]).digest() != content[:_DIGEST_BYTES]:
                return None
            return serialize_executable.deserialize_and_load(*pickle.loads(content[_DIGEST_BYTES:]))
        except _UNREADABLE:
            return None

    def save(self, name: str, compiled: Compiled) -> None:
        """Keeps an executable, if the platform can serialise it and the disk takes it."""
        try:
            content = pickle.dumps(serialize_executable.serialize(compiled))
            self._home.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._home, delete=False) as file:
                file.write(hashlib.sha256(content).digest() + content)
            Path(file.name).replace(self._home / name)
        except _UNREADABLE:
            return

    def prune(self) -> None:
        """Removes what older code or other settings left behind, except the few latest fingerprints."""
        if not self._home.is_dir():
            return
        os.utime(self._home)
        homes = sorted(self._root.iterdir(), key=lambda home: home.stat().st_mtime, reverse=True)
        for home in homes[_KEPT_FINGERPRINTS:]:
            shutil.rmtree(home, ignore_errors=True)


def compile_all(
    lowers: Mapping[str, Lower],
    *,
    store: ExecutableStore | None,
    compiler_options: Mapping[str, Any],
    threads: int,
    progress: Progress,
) -> dict[str, Compiled]:
    """Loads or compiles executables.

    Tracing holds the interpreter lock, so it stays on the calling thread; XLA releases it and runs on `threads` others.

    Args:
      lowers: what traces and lowers each executable, by name.
      store: where to look first and what to fill.
      compiler_options: for XLA.
      threads: executables compiled at the same time.
      progress: called on this thread as each is ready.
    """
    ready: dict[str, Compiled] = {}

    def add(name: str, compiled: Compiled) -> None:
        ready[name] = compiled
        progress(len(ready), len(lowers), name)

    def make(name: str, lowered: Lowered) -> tuple[str, Compiled]:
        compiled = lowered.compile(compiler_options=dict(compiler_options))
        if store is not None:
            store.save(name, compiled)
        return name, compiled

    with ThreadPoolExecutor(threads, thread_name_prefix="compile") as pool:
        running: set[Future[tuple[str, Compiled]]] = set()
        for name, lower in lowers.items():
            kept = None if store is None else store.load(name)
            if kept is not None:
                add(name, kept)
                continue
            running.add(pool.submit(make, name, lower()))
            # Lowered modules are large: never trace far ahead of the compiler.
            done, running = wait(running, timeout=0 if len(running) <= threads else None, return_when=FIRST_COMPLETED)
            for future in done:
                add(*future.result())
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                add(*future.result())
    if store is not None:
        store.prune()
    return ready


def fingerprint(device: jax.Device, parts: Sequence[object]) -> str:
    """Hash of what decides the compiler's output: our code, versions, the device, and `parts` by their repr."""
    digest = hashlib.sha256()
    folders = Path(__file__).parent, *map(Path, (*models.__path__, *kernels_pallas.__path__))
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    facts = [
        jax.__version__,
        jaxlib.__version__,
        platform.python_version(),
        device.platform,
        device.device_kind,
        device.client.platform_version,
        _cpu_facts(),
        # XLA reads this by itself, so no configuration of ours knows what it says.
        os.environ.get("XLA_FLAGS"),
        *parts,
    ]
    for fact in facts:
        digest.update(repr(fact).encode() + b"\n")
    return digest.hexdigest()[:32]


def _cpu_facts() -> tuple[object, ...]:
    """Cores and instruction set: code for a CPU is compiled for exactly these."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return (
        platform.machine(),
        features,
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    )
