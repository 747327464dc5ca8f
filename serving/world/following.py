"""What the other ranks do: follow rank 0 until it parts from them."""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator

from s2l_jax.core.errors import S2LError
from s2l_jax.engine.engine import JaxEngine
from s2l_jax.engine.errors import KVLost
from s2l_jax.engine.protocol import Progress
from serving.world.follower import Follower
from serving.world.orders import Call, Order, blocks_from_bytes, pages_from_bytes, plan_from_bytes, result_to_bytes
from serving.world.pages import rehearse, whole

_log = logging.getLogger(__name__)


def follow(engine: JaxEngine, follower: Follower, progress: Progress, on_warm: Callable[[], None]) -> None:
    """Carries out orders until rank 0 closes the engine. To be called by the main thread.

    SIGTERM and Ctrl-C have rank 0 drain, which ends this process as well; the second one ends the world at once.

    Args:
      engine: this rank's part, not warm yet.
      follower: of the world.
      progress: told how far the warm-up is.
      on_warm: called once it is done.
    """
    ended = threading.Event()

    def main() -> None:
        carry_out_all(engine, follower, progress, on_warm)
        ended.set()

    with _drained_by_signals(follower):
        threading.Thread(target=main, name="s2l-engine", daemon=True).start()
        ended.wait()


def carry_out_all(engine: JaxEngine, follower: Follower, progress: Progress, on_warm: Callable[[], None]) -> None:
    """Carries out orders until there are no more; arguments as above. What fails on devices here ends the world."""
    try:
        for order in follower.orders():
            follower.gave(order.call, _carry_out(engine, order, progress))
            if order.call is Call.WARMUP:
                on_warm()
    except BaseException as error:  # noqa: BLE001 - whatever it is, nobody may be left waiting
        _log.exception("rank %d cannot follow", follower.config.rank)
        follower.watchdog.lose(f"a step failed on rank {follower.config.rank}: {error!r:.300}")


def _carry_out(engine: JaxEngine, order: Order, progress: Progress) -> bytes:
    try:
        match order.call:
            case Call.WARMUP:
                engine.warmup(progress)
                rehearse(engine)
            case Call.SUBMIT:
                engine.submit(plan_from_bytes(order.body))
            case Call.COLLECT:
                return result_to_bytes(engine.collect())
            case Call.GATHER:
                whole(engine.gather(blocks_from_bytes(order.body)))
            case Call.SCATTER:
                blocks, pages = pages_from_bytes(order.body)
                engine.scatter(blocks, engine.place((pages,)))
            case Call.CLOSE:
                engine.close()
    except S2LError as error:
        if isinstance(error, KVLost):
            raise
        return type(error).__name__.encode()
    return b""


@contextlib.contextmanager
def _drained_by_signals(follower: Follower) -> Iterator[None]:
    received = 0

    def on_signal(number: int, _: object) -> None:
        nonlocal received
        received += 1
        if received == 1:
            follower.ask_to_drain()
        else:
            follower.watchdog.lose(
                f"rank {follower.config.rank} was told twice to stop ({signal.Signals(number).name})"
            )

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
