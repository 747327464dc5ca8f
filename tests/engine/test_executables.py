"""Executables are compiled once, kept on disk, and never trusted blindly."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.stages import Lowered

from s2l_jax.engine import executable_store
from s2l_jax.engine.executable_store import ExecutableStore, code_fingerprint, environment_fingerprint
from s2l_jax.engine.executables import Lower, compile_all
from s2l_jax.engine.protocol import Progress


class Lowers:
    """Two small functions with a loop and a donated argument, as engine code has them; counts how often they trace."""

    def __init__(self, addend: float = 1.0) -> None:
        self.traced: list[int] = []
        self.addend = addend

    def lower(self, size: int) -> Lowered:
        def function(x: jax.Array, y: jax.Array) -> jax.Array:
            self.traced.append(size)
            return x.at[0].add(jax.lax.fori_loop(0, y.shape[0], lambda i, total: total + y[i] * self.addend, 0.0))

        shape = jax.ShapeDtypeStruct((size,), jnp.float32)
        return jax.jit(function, donate_argnums=0).lower(shape, shape)

    def all(self) -> dict[str, Lower]:
        return {f"size-{size}": partial(self.lower, size) for size in (3, 5)}


@contextmanager
def count_compilations() -> Iterator[list[str]]:
    seen: list[str] = []

    def listen(event: str, _duration_s: float, **_: object) -> None:
        if "backend_compile" in event:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def start(
    directory: Path | None, lowers: Lowers, code: str = "code", environment: str = "cpu", progress: Progress = print
) -> int:
    """Makes the executables as a start of the engine does, checks that they work, says how many were compiled."""
    store = None if directory is None else ExecutableStore(directory, code=code, environment=environment)
    with count_compilations() as compiled:
        made = compile_all(lowers.all(), store=store, threads=2, progress=progress)
    for size in (3, 5):
        got = made[f"size-{size}"](jnp.zeros(size), jnp.ones(size))
        np.testing.assert_array_equal(got, [size * lowers.addend] + [0] * (size - 1))
    return len(compiled)


def test_the_second_start_neither_traces_nor_compiles(tmp_path: Path) -> None:
    assert start(tmp_path, Lowers()) == 2
    again = Lowers()
    assert start(tmp_path, again) == 0
    assert again.traced == []


def test_changed_code_traces_but_compiles_only_what_has_changed(tmp_path: Path) -> None:
    start(tmp_path, Lowers())
    same_module = Lowers()
    assert start(tmp_path, same_module, code="other code") == 0
    assert sorted(same_module.traced) == [3, 5]
    assert start(tmp_path, Lowers(), code="other code") == 0
    assert start(tmp_path, Lowers(addend=2.0), code="third code") == 2


def test_another_environment_compiles(tmp_path: Path) -> None:
    start(tmp_path, Lowers())
    assert start(tmp_path, Lowers(), environment="gpu") == 2


def test_equal_modules_with_other_arguments_are_not_mixed_up(tmp_path: Path) -> None:
    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    ways = {
        "plain": ((shape, shape), lambda x, y: x + y),
        "nested": (((shape, shape),), lambda pair: pair[0] + pair[1]),
        "named": (({"x": shape, "y": shape},), lambda pair: {"sum": pair["x"] + pair["y"]}),
    }
    for way, (arguments, function) in ways.items():
        lower = partial(jax.jit(function, keep_unused=True).lower, *arguments)
        store = ExecutableStore(tmp_path, code=way, environment="cpu")
        made = compile_all({way: lower}, store=store, threads=1, progress=print)
        ones = jax.tree.map(lambda _: jnp.ones(3), arguments)
        np.testing.assert_array_equal(jax.tree.leaves(made[way](*ones))[0], [2, 2, 2])


@pytest.mark.parametrize("harm", ["truncate", "flip", "empty", "delete", "index"])
def test_a_damaged_store_means_compiling(tmp_path: Path, harm: str) -> None:
    start(tmp_path, Lowers())
    for file in (tmp_path / "executables").iterdir():
        content = file.read_bytes()
        if (file.suffix == ".json") != (harm == "index"):
            continue
        if harm == "delete":
            file.unlink()
        else:
            middle = len(content) // 2
            flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            file.write_bytes({"truncate": content[:middle], "flip": flipped, "index": b"[oops"}.get(harm, b""))
    again = Lowers()
    assert start(tmp_path, again) == (0 if harm == "index" else 2)
    assert sorted(again.traced) == [3, 5]
    assert start(tmp_path, Lowers()) == 0


def test_a_directory_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    (tmp_path / "executables").write_text("a file where the directory should be")
    assert start(tmp_path, Lowers()) == 2
    assert start(None, Lowers()) == 2


def test_nothing_is_saved_that_came_out_of_jax_own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executable_store.jax, "config", _Config())
    start(tmp_path, Lowers())
    assert not (tmp_path / "executables").exists()


class _Config:
    jax_compilation_cache_dir = "/somewhere"


def test_the_store_does_not_grow_without_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executable_store, "MAX_FILES", 3)
    for addend in range(1, 5):
        start(tmp_path, Lowers(addend=addend), code=str(addend))
    assert len(list((tmp_path / "executables").iterdir())) == 3
    assert start(tmp_path, Lowers(addend=4), code="4") == 0


def test_progress_counts_each_executable_once(tmp_path: Path) -> None:
    for _ in range(2):
        seen: list[tuple[int, int, str]] = []
        start(tmp_path, Lowers(), progress=partial(_note, seen))
        assert [(done, total) for done, total, _ in seen] == [(1, 2), (2, 2)]
        assert {name for _, _, name in seen} == {"size-3", "size-5"}


def _note(seen: list[tuple[int, int, str]], done: int, total: int, name: str) -> None:
    seen.append((done, total, name))


def test_fingerprints_tell_configurations_apart() -> None:
    device = jax.devices()[0]
    assert code_fingerprint([1]) == code_fingerprint([1])
    assert code_fingerprint([1]) != code_fingerprint([2])
    assert environment_fingerprint([device]) == environment_fingerprint([device])


def test_files_edited_since_the_start_do_not_change_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is traced is the code that was imported, so that is what executables must be kept under."""
    before = code_fingerprint([1])
    monkeypatch.setattr(Path, "read_text", lambda self: "edited")
    assert code_fingerprint([1]) == before
