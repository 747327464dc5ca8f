"""Copies of pages: every layer's content arrives, in the order that plans promise, with either host memory."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from s2l_jax.core.errors import InternalError
from s2l_jax.core.ids import BlockId, HostSlot
from s2l_jax.core.plan import HostCopy, PageCopy, StepPlan, StepTiming
from s2l_jax.engine.buckets import COPIED_PAGES, copy_runs
from s2l_jax.engine.config import HOST_MEMORIES, EngineConfig
from s2l_jax.engine.device_code import Contents
from s2l_jax.engine.engine import JaxEngine
from s2l_jax.engine.errors import KVLost
from s2l_jax.engine.host_numpy import NumpyMemory
from s2l_jax.engine.host_pinned import PinnedMemory
from s2l_jax.engine.host_pool import HostMemory
from s2l_jax.models.registry import LoadedModel
from tests.engine.driver import Stream, decode, prefill, same_output
from tests.engine.test_engine import count_compilations

PROMPT = np.random.default_rng(2).integers(0, 256, 24).tolist()


@pytest.fixture(scope="module", params=HOST_MEMORIES)
def engine(tiny: LoadedModel, config: EngineConfig, request: pytest.FixtureRequest) -> Iterator[JaxEngine]:
    engine = JaxEngine(tiny.build(), tiny.config, replace(config, host_blocks=30, host_memory=request.param))
    engine.warmup()
    yield engine
    engine.close()


@pytest.fixture
def pages(engine: JaxEngine) -> np.ndarray:
    """Different content in every page of every layer, `[blocks, layers, ...]`, written into the engine."""
    rng = np.random.default_rng(3)

    def fill(layer: jax.Array) -> jax.Array:
        return jnp.asarray(rng.standard_normal(layer.shape), layer.dtype)

    engine._state.pages = jax.tree.map(fill, engine._state.pages)
    return read_pages(engine)


def read_pages(engine: JaxEngine) -> np.ndarray:
    return np.stack([np.array(layer) for group in engine._state.pages for layer in group], axis=1)


def host(blocks: Sequence[int], slots: Sequence[int], epoch: int) -> tuple[HostCopy, ...]:
    return tuple(HostCopy(BlockId(b), HostSlot(s), epoch) for b, s in zip(blocks, slots, strict=True))


def device(sources: Sequence[int], targets: Sequence[int]) -> tuple[PageCopy, ...]:
    return tuple(PageCopy(BlockId(s), BlockId(t)) for s, t in zip(sources, targets, strict=True))


def copy_step(**copies: tuple[HostCopy, ...] | tuple[PageCopy, ...]) -> StepPlan:
    return StepPlan(0, (), (), **copies)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 3, 8, 20], ids=str)
def test_saved_pages_come_back_elsewhere(engine: JaxEngine, pages: np.ndarray, count: int) -> None:
    rng = np.random.default_rng(count)
    blocks, others = np.split(rng.permutation(40)[: 2 * count], 2)
    slots = rng.permutation(30)[:count]
    engine.execute(copy_step(saves=host(blocks, slots, 1)))
    np.testing.assert_array_equal(read_pages(engine), pages)
    engine.execute(copy_step(loads=host(others, slots, 1)))
    expected = pages.copy()
    expected[others] = pages[blocks]
    np.testing.assert_array_equal(read_pages(engine), expected)


@pytest.mark.parametrize("count", [1, 3, 8, 20], ids=str)
def test_pages_are_copied_within_the_device(engine: JaxEngine, pages: np.ndarray, count: int) -> None:
    sources, targets = np.split(np.random.default_rng(count).permutation(40)[: 2 * count], 2)
    sources[0] = sources[-1]  # one page may be copied several times
    engine.execute(copy_step(copies=device(sources, targets)))
    expected = pages.copy()
    expected[targets] = pages[sources]
    np.testing.assert_array_equal(read_pages(engine), expected)


def test_saves_read_what_loads_and_copies_of_their_step_overwrite(engine: JaxEngine, pages: np.ndarray) -> None:
    engine.execute(copy_step(saves=host([7], [0], 1)))
    saves, loads = host([1, 2], [1, 2], 1), host([1], [0], 1)
    engine.execute(copy_step(saves=saves, loads=loads, copies=device([9], [2])))
    engine.execute(copy_step(loads=host([20, 21], [1, 2], 1)))
    expected = pages.copy()
    expected[[1, 2, 20, 21]] = pages[[7, 9, 1, 2]]
    np.testing.assert_array_equal(read_pages(engine), expected)


def test_chunks_run_behind_the_copies_of_their_step(engine: JaxEngine) -> None:
    """The first pages of a session come from the host, the next from another block, and are read in the same step.

    The blocks that the step writes are saved by it as well: what was in them before must arrive.
    """
    expected = Stream(PROMPT, range(8))
    prefill(engine, expected, [16])
    engine.execute(copy_step(saves=host([0, 1, 2], [3, 4, 5], 7)))
    prefill(engine, expected, [8])
    decode(engine, [expected], 4)

    engine.execute(copy_step(copies=device([3], [30])))
    prefill(engine, Stream(PROMPT[::-1], range(6), slot=1), [16, 8])
    stream = Stream(PROMPT, range(10, 20), slot=2)
    stream.computed = 16
    before = read_pages(engine)
    copies = {"saves": host([14, 15], [6, 7], 8), "loads": host([10, 11, 12], [3, 4, 5], 7)}
    plan = StepPlan(1, (stream.chunk(8),), (stream.sample(),), **copies, copies=device([30], [13]))
    stream.take(engine.execute(plan).tokens[0])
    for _ in range(3):
        stream.take(engine.execute(StepPlan(2, (stream.chunk(1),), (stream.sample(),))).tokens[0])
    same_output(stream, expected)
    engine.execute(copy_step(loads=host([38, 39], [6, 7], 8)))
    np.testing.assert_array_equal(read_pages(engine)[[38, 39]], before[[14, 15]])


def test_a_slot_saved_by_one_step_is_loaded_by_the_next(engine: JaxEngine, pages: np.ndarray) -> None:
    for epoch in range(20, 30):
        sources = np.random.default_rng(epoch).permutation(20)[:9]
        engine.submit(copy_step(saves=host(sources, range(9), epoch)))
        engine.submit(copy_step(loads=host(range(20, 29), range(9), epoch)))
        engine.collect()
        engine.collect()
        np.testing.assert_array_equal(read_pages(engine)[20:29], pages[sources])


def test_a_load_that_was_just_started_is_not_changed_by_a_save_to_its_slot(
    engine: JaxEngine, pages: np.ndarray
) -> None:
    slots = range(9)
    engine.execute(copy_step(saves=host(range(9), slots, 40)))
    for epoch in range(40, 50):
        engine.submit(copy_step(loads=host(range(20, 29), slots, epoch)))
        engine.submit(copy_step(saves=host(range(10, 19), slots, epoch + 1)))
        engine.collect()
        engine.collect()
        assert (read_pages(engine)[20:29] == (pages[10:19] if epoch > 40 else pages[:9])).all()


def test_the_later_of_two_saves_to_a_slot_stays(engine: JaxEngine, pages: np.ndarray) -> None:
    for epoch in range(50, 60, 2):
        engine.submit(copy_step(saves=host([1], [0], epoch)))
        engine.submit(copy_step(saves=host([2], [0], epoch + 1)))
        engine.collect()
        engine.submit(copy_step(loads=host([3], [0], epoch + 1)))
        engine.collect()
        engine.collect()
        np.testing.assert_array_equal(read_pages(engine)[3], pages[2])


def test_a_load_waits_until_its_save_has_landed(
    engine: JaxEngine, pages: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    land = threading.Event()
    write = engine._memory.write

    def slow(slots: Sequence[int], contents: Contents) -> None:
        assert land.wait(10)
        write(slots, contents)

    monkeypatch.setattr(engine._memory, "write", slow)
    engine.submit(copy_step(saves=host([5], [1], 60)))
    assert not engine.is_ready()
    threading.Timer(0.1, land.set).start()
    engine.submit(copy_step(loads=host([6], [1], 60)))
    assert land.is_set()
    engine.collect()
    engine.collect()
    np.testing.assert_array_equal(read_pages(engine)[6], pages[5])


@pytest.mark.parametrize(
    ("copies", "message"),
    [
        ({"loads": host([1], [0], 98)}, "epoch 98"),
        ({"loads": host([1], [9], 99)}, "holds epoch None"),
        ({"loads": host([1], [0], 99), "saves": host([2], [0], 100)}, "loads from it"),
        ({"saves": host([1, 2], [3, 3], 1)}, "twice"),
        ({"saves": host([1], [30], 1)}, "slot 30"),
        ({"saves": host([40], [3], 1)}, "pool of 40"),
        ({"loads": host([1], [0], 99), "copies": device([2], [1])}, "to one block"),
        ({"copies": device([-1], [1])}, "pool of 40"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_copies_that_must_not_be_are_refused(
    engine: JaxEngine, pages: np.ndarray, copies: dict[str, tuple[HostCopy, ...]], message: str
) -> None:
    engine._host.forget(host([0] * 30, range(30), 0))
    engine.execute(copy_step(saves=host([4], [0], 99)))
    with pytest.raises(InternalError, match=message) as raised:
        engine.execute(copy_step(**copies))
    assert not isinstance(raised.value, KVLost)
    np.testing.assert_array_equal(read_pages(engine), pages)


def test_slots_of_dropped_steps_are_empty_and_others_keep_theirs(engine: JaxEngine, pages: np.ndarray) -> None:
    engine.execute(copy_step(saves=host([4, 5], [0, 1], 110)))
    engine.submit(copy_step(saves=host([6], [1], 111)))
    with pytest.raises(InternalError):
        engine.submit(copy_step(loads=host([20], [1], 112)))
    with pytest.raises(InternalError, match="holds epoch None"):
        engine.submit(copy_step(loads=host([20], [1], 111)))
    engine.execute(copy_step(loads=host([20], [0], 110)))
    np.testing.assert_array_equal(read_pages(engine)[20], pages[4])


def test_the_host_keeps_its_pages_when_the_device_loses_its_own(engine: JaxEngine) -> None:
    expected = Stream(PROMPT, range(8))
    prefill(engine, expected, [16, 8])
    engine.execute(copy_step(saves=host(range(4), range(4), 120)))
    decode(engine, [expected], 4)
    engine.submit(copy_step(saves=host([9], [9], 1)))
    engine._state.pages[0][1].delete()
    with pytest.raises(KVLost):
        engine.submit(copy_step(saves=host([8], [8], 1)))
    stream = Stream(PROMPT, range(10, 20), slot=3)
    stream.computed = 16
    plan = StepPlan(1, (stream.chunk(8),), (), loads=host(range(10, 14), range(4), 120))
    engine.execute(plan)
    decode(engine, [stream], 4)
    same_output(stream, expected)
    with pytest.raises(InternalError, match="holds epoch None"):
        engine.execute(copy_step(loads=host([9], [9], 1)))


def test_a_save_that_cannot_land_fails_its_step(
    engine: JaxEngine, pages: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(slots: Sequence[int], contents: Contents) -> None:
        raise MemoryError("host memory is full")

    with monkeypatch.context() as patch:
        patch.setattr(engine._memory, "write", full)
        engine.submit(copy_step(saves=host([1], [1], 130)))
        with pytest.raises(InternalError, match="host memory is full"):
            engine.collect()
    engine.execute(copy_step(saves=host([1], [1], 131)))
    engine.execute(copy_step(loads=host([2], [1], 131)))
    np.testing.assert_array_equal(read_pages(engine)[2], pages[1])


def test_each_part_of_a_step_is_timed(engine: JaxEngine) -> None:
    stream = Stream(PROMPT, range(8))
    assert engine.execute(StepPlan(0, (stream.chunk(8),), ())).timing.compute_s > 0
    started_s = time.perf_counter()
    saved = engine.execute(copy_step(saves=host(range(9), range(9), 140))).timing
    loaded = engine.execute(copy_step(loads=host(range(9), range(9), 140))).timing
    copied = engine.execute(copy_step(copies=device([1], [2]))).timing
    engine.submit(copy_step(saves=host(range(9), range(9), 141)))
    copies = {"saves": host(range(10, 19), range(10, 19), 141), "loads": host(range(20, 29), range(9), 141)}
    engine.submit(StepPlan(0, (stream.chunk(8),), (), **copies))
    first, everything = engine.collect().timing, engine.collect().timing
    elapsed_s = time.perf_counter() - started_s
    for timing, parts in [
        (saved, {"save_s"}),
        (first, {"save_s"}),
        (loaded, {"load_s"}),
        (copied, {"compute_s"}),
        (everything, {"save_s", "load_s", "compute_s"}),
    ]:
        assert {name for name in StepTiming._fields if getattr(timing, name) > 0} == parts
        assert sum(timing) <= elapsed_s


def test_nothing_is_compiled_for_copies(engine: JaxEngine) -> None:
    with count_compilations() as compiled:
        for count in (1, 2, 7, 8, 9, 17):
            blocks, slots = range(count), range(count)
            copies = device(range(count), range(20, 20 + count))
            engine.submit(copy_step(saves=host(blocks, slots, 200 + count), copies=copies))
            engine.submit(copy_step(loads=host(blocks, slots, 200 + count)))
            engine.collect()
            engine.collect()
    assert compiled == []


def test_runs_of_copies_cover_each_once_in_sizes_that_are_compiled() -> None:
    for count in range(70):
        runs = list(copy_runs(count))
        assert [index for run in runs for index in range(count)[run]] == list(range(count))
        assert {run.stop - run.start for run in runs} <= {*COPIED_PAGES}


def test_memories_are_what_they_are_called(engine: JaxEngine) -> None:
    memory: HostMemory = engine._memory
    engine.execute(copy_step(saves=host([1], [1], 300)))
    if isinstance(memory, NumpyMemory):
        (part,) = memory._parts.values()
        kept = part[1]
        assert isinstance(kept, np.ndarray)
    else:
        kept = memory._pages[1]  # type: ignore[attr-defined]
        assert kept.sharding.memory_kind == "pinned_host"
    assert kept.nbytes == read_pages(engine)[1].nbytes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", HOST_MEMORIES)
def test_memories_keep_every_bit(kind: str, dtype: str) -> None:
    shape = (2, 1, 4, 8)
    device = SingleDeviceSharding(jax.devices()[0])
    memory: HostMemory = NumpyMemory(6, shape, dtype, device)
    if kind == "pinned_host":
        memory = PinnedMemory(6, device.with_memory_kind("pinned_host"), device)
    bits = np.random.default_rng(0).integers(0, 256, (5, *shape, jnp.dtype(dtype).itemsize), np.uint8)
    pages = bits.view(jnp.dtype(dtype))[..., 0]
    on_device = jax.device_put(pages, device)
    slots = [5, 0, 3, 1, 2]
    memory.write(slots, tuple(jnp.split(on_device, 5)) if memory.split_contents else (on_device,))
    loaded = np.concatenate([np.asarray(piece) for piece in memory.read([3, 5])])
    assert loaded.dtype == jnp.dtype(dtype)
    assert loaded.tobytes() == pages[[2, 0]].tobytes()
