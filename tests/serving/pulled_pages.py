"""Run as a program, for what it tries may abort: engines whose pages are pulled through `jax.experimental.transfer`."""

import json
import logging
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from s2l_jax.core.errors import S2LError
from serving.remote import device_probe
from serving.remote.device_link import DeviceLink
from serving.remote.device_probe import failure_of
from serving.remote.engine import RemoteEngine
from serving.remote.offer import PROBED, Offer
from tests.orchestrator.harness import Recorder
from tests.orchestrator.test_separate import stream
from tests.serving.remote_harness import PAGE_SHAPE, make_engine, remote_world, serve

HOST = "127.0.0.1"


def make_link() -> DeviceLink:
    return DeviceLink(HOST)


def message_of(call: object) -> str:
    try:
        call()  # type: ignore[operator]
    except S2LError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was wrong"


def streams(*, all_pull: bool = True) -> dict[str, object]:
    """Engines of each role in other processes, as far as anybody can see."""
    wrong = []

    def run(number: int) -> None:
        sink = Recorder()
        text = stream(w, number, sink)
        if sink.ids != w.expected(text):
            wrong.append(number)

    with remote_world("prefill", ["prefill", "generate"], make_link=make_link) as (w, _):
        remote = [unit.engine for unit in w.units if isinstance(unit.engine, RemoteEngine)]
        remote[0].pulls &= all_pull
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(run, range(24)))
        w.check_empty()
        counters = w.orchestrator.stats().counters
    pulls = [engine.pulls for engine in remote]
    return {"wrong": wrong, "handoffs": counters.handoffs, "resumed": counters.sessions_resumed, "pulls": pulls}


def streams_with_one_that_does_not() -> dict[str, object]:
    """Its pages go in messages."""
    return streams(all_pull=False)


def links() -> dict[str, object]:
    """What goes wrong, and that the next one goes right."""
    here, there = make_link(), make_link()
    pages = (np.arange(96, dtype=np.float32).reshape(3, *PAGE_SHAPE[:2], 4, 8), np.ones((3, 1, 1, 4, 8), np.float32))
    pulled = here.pull(there.offer(pages))
    missing = message_of(lambda: here.pull(Offer(there.offer(pages).address, 10**6, 1, (4,), "float32"), 0.5))
    again = here.pull(there.offer(pages))
    return {
        "equal": [np.array_equal(a, b) for a, b in zip((*pulled, *again), (*pages, *pages), strict=True)],
        "missing": missing,
    }


def refusals() -> dict[str, object]:
    """A link checks what it is told, and an engine without one says so."""
    link = make_link()
    servers = [serve("generate", make_engine(), link=each) for each in (link, None)]
    linked, plain = (RemoteEngine(f"{HOST}:{server.port}") for server in servers)
    for engine in (linked, plain):
        engine.warmup()
    like_pages = np.zeros((2, *PAGE_SHAPE), np.float32)
    found = {
        "shape": message_of(lambda: linked.pull(make_link().offer((like_pages[:, :, :, :2],)))),
        "dtype": message_of(lambda: linked.pull(make_link().offer((like_pages.view(np.int32),)))),
        "without": message_of(lambda: plain.offer(0)),
    }
    for engine, server in zip((linked, plain), servers, strict=True):
        engine.close()
        server.stop()
    return found


def probes() -> dict[str, object]:
    """A third process pulls, or waits in vain."""
    link = make_link()
    offer = link.offer((np.asarray(PROBED, np.float32),))
    good = failure_of(offer, HOST)
    device_probe.PROBE_S = 4.0
    return {"good": good, "bad": failure_of(Offer(offer.address, 10**6, 1, (4,), "float32"), HOST)}


if __name__ == "__main__":
    logging.disable(logging.ERROR)
    print(json.dumps([part() for part in (streams, streams_with_one_that_does_not, links, refusals, probes)]))
    sys.stdout.flush()
