"""Engines of two processes, as a user starts them: the same answers as from one, and an end that everybody hears of."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from s2l_jax.core.errors import Unavailable
from s2l_jax.models import registry
from s2l_jax.models.paged_driver import PagedDriver
from serving.client import Client, SamplingParams
from serving.world.watchdog import LOST_STATUS
from tests.serving.world.processes import OUTPUT_TOKENS, PARAMS, World, answer, context, ended

SESSIONS = 4


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    """What one process says to a context that is there at once."""
    model = registry.load("tiny-random", dtype="float32")
    driver = PagedDriver(model.build(), 64)
    return [driver.greedy(context(number), OUTPUT_TOKENS)[0] for number in range(SESSIONS)]


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Path:
    """Survives the test run, so that a second one does not compile."""
    return request.config.cache.mkdir("world")


class Waiting:
    """A session whose context is not complete, and the error that ends it."""

    def __init__(self, target: str) -> None:
        self.error: Exception | None = None
        self._is_open = threading.Event()
        self._target = target
        self._thread = threading.Thread(target=self._wait)
        self._thread.start()
        assert self._is_open.wait(10.0)

    def joined(self) -> Exception | None:
        self._thread.join(30.0)
        return self.error

    def _wait(self) -> None:
        try:
            with Client(self._target) as client, client.session(PARAMS) as session:
                session.append([1, 2, 3])
                self._is_open.set()
                for _ in session.tokens():
                    pass
        except Exception as error:  # noqa: BLE001 - looked at by the test
            self.error = error


def answers(target: str) -> list[list[int]]:
    """Of sessions that want more memory than there is."""
    with Client(target) as client, ThreadPoolExecutor(SESSIONS) as pool:
        return list(pool.map(lambda number: answer(client, number), range(SESSIONS)))


def half_an_answer(target: str) -> Iterator[None]:
    """Yields when half of an answer is there, then wants the rest."""
    with Client(target) as client, client.session(SamplingParams(max_tokens=32, ignore_eos=True)) as session:
        session.append(list(range(12)))
        session.finish()
        for count, _ in enumerate(session.tokens()):
            if count == 4:
                yield


@pytest.mark.timeout(200)
def test_two_processes_answer_like_one_and_a_kill_ends_both(folder: Path, expected: list[list[int]]) -> None:
    world = World(folder, "--preemption", "swap")
    with ended(world.ranks):
        target = world.target
        assert answers(target) == expected
        with Client(target) as client:
            stats = client.stats()
        assert stats.preemptions["swap"] > 0
        assert stats.preemptions["loaded_blocks"] > 0
        waiting, running = Waiting(target), half_an_answer(target)
        next(running)
        world.ranks[1].process.kill()
        from_s = time.monotonic()
        with pytest.raises(Unavailable) as raised:
            list(running)
        assert raised.value.retry_after_s > 0
        assert isinstance(waiting.joined(), Unavailable)
        assert world.ranks[0].status() == LOST_STATUS
        assert time.monotonic() - from_s < 8.0
        assert "rank 1 is gone" in world.ranks[0].said
        assert "start all 2 again" in world.ranks[0].said
