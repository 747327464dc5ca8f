"""Engines of two processes, as a user starts them: the same answers as from one, and an end that everybody hears of."""

import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from s2l_jax.core.errors import Unavailable
from s2l_jax.models import registry, tiny_random
from s2l_jax.models.checkpoint_writer import write_checkpoint
from s2l_jax.models.paged_driver import PagedDriver
from serving.client import Client, SamplingParams
from serving.world.watchdog import LOST_STATUS
from tests.serving.world.processes import (
    OUTPUT_TOKENS,
    PARAMS,
    SILENCE_S,
    SMALLEST,
    Place,
    Process,
    World,
    context,
    ended,
    pieces,
)

SESSIONS = 4
SOON_S = 10.0  # far less than anything that would wait: the machine may be busy
ABORTED = -signal.SIGABRT  # by JAX, which may notice first that rank 0 is gone


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    """What one process says to a context that is there at once."""
    model = registry.load("tiny-random", dtype="float32")
    driver = PagedDriver(model.build(), 64)
    return [driver.greedy(context(number), OUTPUT_TOKENS)[0] for number in range(SESSIONS)]


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Executables survive the test run, so that a second one does not compile."""
    return Place(tmp_path, request.config.cache.mkdir("world"))


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
    """Of sessions whose contexts come in pieces and want more memory than there is: half take it from the others."""
    with Client(target) as client, contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(client.session(PARAMS)) for _ in range(SESSIONS)]
        for number, session in enumerate(sessions):
            for keep, piece in pieces(number):
                session.update(piece, keep_tokens=keep)
        settle(client)
        said = {}
        for half in (range(0, SESSIONS, 2), range(1, SESSIONS, 2)):
            for number in half:
                sessions[number].finish()
            for number in half:
                said[number] = [token_id for token in sessions[number].tokens() for token_id in token.ids]
        return [said[number] for number in range(SESSIONS)]


def settle(client: Client) -> None:
    """Waits until all that has come is computed, as far as there is room."""
    before, now = -1, client.stats().steps
    while now != before:
        time.sleep(0.3)
        before, now = now, client.stats().steps


def half_an_answer(target: str) -> Iterator[None]:
    """Yields when half of an answer is there, then wants the rest."""
    with Client(target) as client, client.session(SamplingParams(max_tokens=32, ignore_eos=True)) as session:
        session.append(list(range(12)))
        session.finish()
        for count, _ in enumerate(session.tokens()):
            if count == 4:
                yield


@pytest.mark.timeout(200)
def test_two_processes_answer_like_one_and_a_kill_ends_both(place: Place, expected: list[list[int]]) -> None:
    world = World(place, "--preemption", "swap", *SMALLEST)
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
        assert time.monotonic() - from_s < SOON_S
        assert "rank 1 is gone" in world.ranks[0].said
        assert "start all 2 again" in world.ranks[0].said


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_stopped_process_ends_the_others_and_itself_when_it_goes_on(place: Place, rank: int) -> None:
    world = World(place)
    with ended(world.ranks):
        running = half_an_answer(world.target)
        next(running)
        stopped, other = world.ranks[rank], world.ranks[1 - rank]
        stopped.send(signal.SIGSTOP)
        from_s = time.monotonic()
        assert other.status() == LOST_STATUS
        assert SILENCE_S / 2 < time.monotonic() - from_s < SILENCE_S + SOON_S
        assert f"nothing was heard of rank {rank} for 3 s" in other.said
        stopped.send(signal.SIGCONT)
        assert stopped.status() == LOST_STATUS
        assert "start all 2 again" in stopped.said
        with pytest.raises(Unavailable):
            list(running)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_death_of_rank_0_ends_all_others(place: Place) -> None:
    world = World(place)
    with ended(world.ranks):
        running = half_an_answer(world.target)
        next(running)
        world.ranks[0].process.kill()
        from_s = time.monotonic()
        assert world.ranks[1].status() in (LOST_STATUS, ABORTED)
        assert time.monotonic() - from_s < SOON_S
        with pytest.raises(Unavailable):
            list(running)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_signal_at_any_rank_lets_sessions_end_first(place: Place, expected: list[list[int]]) -> None:
    world = World(place)
    with ended(world.ranks), Client(world.target) as client, client.session(PARAMS) as session:
        session.append(context(0))
        session.finish()
        tokens = session.tokens()
        ids = [*next(tokens).ids]
        world.ranks[1].send(signal.SIGTERM)
        for token in tokens:
            ids += token.ids
        assert ids == expected[0]
        assert [process.status() for process in world.ranks] == [0, 0]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a model that four devices can share."""
    config = replace(tiny_random.CONFIG, name="wide", num_q_heads=8, num_kv_heads=4)
    model = replace(registry.load("tiny-random"), config=config, weights=tiny_random.random_weights(config, 0))
    out = tmp_path_factory.mktemp("wide") / "model"
    write_checkpoint(model, out)
    return out


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("quantization", [None, "int8"])
def test_two_devices_each_and_a_checkpoint(place: Place, wide: Path, quantization: str | None) -> None:
    driver = PagedDriver(registry.load(str(wide), quantization=quantization).build(), 64)
    expected = [driver.greedy(context(number), OUTPUT_TOKENS)[0] for number in range(SESSIONS)]
    options = () if quantization is None else ("--quantization", quantization)
    world = World(place, "--model", str(wide), "--preemption", "recompute", *options, devices=4)
    with ended(world.ranks):
        assert answers(world.target) == expected
        with Client(world.target) as client:
            assert client.stats().preemptions["recompute"] > 0


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("roles", [("generate", "prefill"), ("prefill", "generate"), ("both", "both")])
def test_sessions_of_an_engine_of_two_processes_go_on_elsewhere(
    place: Place, expected: list[list[int]], roles: tuple[str, str]
) -> None:
    world = World(place, server=("--role", roles[0]))
    processes = [*world.ranks]
    with ended(processes):
        peers = f"127.0.0.1:{world.ranks[0].port}"
        options = ("--model", "tiny-random", "--role", roles[1], "--peers", peers)
        processes.append(Process(place, "server", *options, "--port", "0", "--http-port", "0"))
        target = f"grpc://127.0.0.1:{processes[-1].port}"
        assert answers(target) == expected
        with Client(target) as client, client.session(PARAMS) as session:
            session.append(context(1))
            session.finish()
            tokens = session.tokens()
            ids = [token_id for token in itertools.islice(tokens, 3) for token_id in token.ids]
            world.ranks[1].process.kill()
            assert ids + [token_id for token in tokens for token_id in token.ids] == expected[1]
        assert world.ranks[0].status() == LOST_STATUS


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_rank_0_with_other_engines_lets_its_sessions_end_there(place: Place, expected: list[list[int]]) -> None:
    other = Process(place, "peer", "--model", "tiny-random", "--role", "both", "--port", "0")
    processes = [other]
    with ended(processes):
        world = World(place, server=("--role", "both", "--peers", f"127.0.0.1:{other.port}", "--http-port", "0"))
        processes += world.ranks
        with Client(world.target) as client, client.session(PARAMS) as one, client.session(PARAMS) as two:
            running = (one, two)
            for session in running:
                session.append(context(0))
                session.finish()
            begun = [session.tokens() for session in running]
            ids = [[*next(tokens).ids] for tokens in begun]
            world.ranks[1].process.kill()
            for so_far, tokens in zip(ids, begun, strict=True):
                so_far.extend(token_id for token in tokens for token_id in token.ids)
            assert ids == [expected[0]] * 2
        assert world.ranks[0].status() == LOST_STATUS
