"""Compiled executables on disk, so that a second start neither traces nor compiles.

Two levels. An executable lies under a hash of what the compiler read: the lowered module, its options, the device, the
versions. An index file, under a fingerprint of our source code and the shapes, leads from a bucket's name to that hash,
so that a start with unchanged code need not even trace; after a change of code that leaves a module as it was, tracing
is all that is needed. Anything unexpected in the store means compiling.

JAX's own compilation cache is left alone, and if somebody has switched it on, nothing is saved here: executables that
came out of it lose functions when they are serialised again (jax 0.12, CPU: "Function ... not found" when they run).
"""

import contextlib
import hashlib
import json
import os
import pickle
import platform
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jaxlib
from jax.experimental import serialize_executable
from jax.stages import Compiled, Lowered

import kernels_pallas
from s2l_jax import models

MAX_FILES = 300

_DIGEST_BYTES = 32
_KEY_CHARS = 32
_UNREADABLE = (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, pickle.PickleError)


class ExecutableStore:
    """Executables of one configuration.

    Functions must be lowered with `keep_unused`, or which arguments were dropped is not part of the hash.

    The files hold pickles and machine code: whoever can write to `directory` can run code in this process.
    """

    def __init__(
        self, directory: Path, *, code: str, environment: str, devices: Sequence[jax.Device] | None = None
    ) -> None:
        """Reads the index, if there is one.

        Args:
          directory: where all configurations keep their files.
          code: fingerprint of what decides the lowered modules.
          environment: fingerprint of what decides, together with the module, what the compiler makes.
          devices: that executables run on, and were made for; None is all of the default platform.
        """
        self._directory = directory / "executables"
        self._environment = environment
        self._devices = devices
        self._index_file = self._directory / f"index-{_key(code, environment)}.json"
        self._index: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError):
            self._index = json.loads(self._index_file.read_text())

    def recall(self, name: str) -> Compiled | None:
        """The executable that unchanged code kept under `name`, or None."""
        return self._load(self._index[name]) if name in self._index else None

    def find(self, name: str, lowered: Lowered) -> Compiled | None:
        """The executable made from an equal module, or None."""
        key = self._key(lowered)
        compiled = self._load(key)
        if compiled is not None:
            self._index[name] = key
        return compiled

    def save(self, name: str, lowered: Lowered, compiled: Compiled) -> None:
        """Keeps an executable, if the platform can serialise it and the disk takes it."""
        if jax.config.jax_compilation_cache_dir is not None:
            return
        key = self._key(lowered)
        try:
            content = pickle.dumps(serialize_executable.serialize(compiled))
            self._write(self._directory / key, hashlib.sha256(content).digest() + content)
            self._index[name] = key
        except _UNREADABLE:
            return

    def close(self) -> None:
        """Writes the index and removes the files that were not used for longest."""
        if not self._index:
            return
        try:
            self._write(self._index_file, json.dumps(self._index).encode())
            files = sorted(self._directory.iterdir(), key=lambda file: file.stat().st_mtime)
            for file in files[:-MAX_FILES]:
                file.unlink()
        except OSError:
            return

    def _key(self, lowered: Lowered) -> str:
        # An executable also holds how arguments are nested, which the module does not show.
        return _key(self._environment, lowered.as_text(), repr(lowered.args_info), repr(lowered.out_tree))

    def _load(self, key: str) -> Compiled | None:
        file = self._directory / key
        try:
            content = file.read_bytes()
            if hashlib.sha256(content[_DIGEST_BYTES:]).digest() != content[:_DIGEST_BYTES]:
                return None
            os.utime(file)
            backend = self._devices[0].client if self._devices else None
            serialized, in_tree, out_tree = pickle.loads(content[_DIGEST_BYTES:])
            return serialize_executable.deserialize_and_load(
                serialized, in_tree, out_tree, backend=backend, execution_devices=self._devices
            )
        except _UNREADABLE:
            return None

    def _write(self, file: Path, content: bytes) -> None:
        """Writes at once or not at all, since other processes may read the store."""
        self._directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._directory, delete=False) as part:
            part.write(content)
        Path(part.name).replace(file)


def code_fingerprint(parts: Sequence[object]) -> str:
    """Hash of our device code and of `parts`, by their repr."""
    return _key(*map(repr, parts), *_SOURCES)


def environment_fingerprint(devices: Sequence[jax.Device]) -> str:
    """Hash of what the compiler's output depends on besides the module; an executable belongs to its devices."""
    device = devices[0]
    facts = (
        jax.__version__,
        jaxlib.__version__,
        platform.python_version(),
        device.platform,
        device.device_kind,
        device.client.platform_version,
        tuple(each.id for each in devices),
        (jax.process_index(), jax.process_count()),
        _cpu_facts(),
        # XLA reads this by itself, so no configuration of ours knows what it says.
        os.environ.get("XLA_FLAGS"),
    )
    return _key(repr(facts))


def _sources() -> Iterator[str]:
    for folder in (Path(__file__).parent, *map(Path, (*models.__path__, *kernels_pallas.__path__))):
        for file in sorted(folder.rglob("*.py")):
            yield f"{file.name}\n{file.read_text()}"


# As they are when this module is imported, like the code that will be traced: files edited since are another program's.
_SOURCES = tuple(_sources())


def _cpu_facts() -> tuple[object, ...]:
    """Cores and instruction set: code for a CPU is compiled for exactly these."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return platform.machine(), features, cores


def _key(*texts: str) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)}:".encode() + text.encode())
    return digest.hexdigest()[:_KEY_CHARS]
