"""What the server says about its memory."""

import threading
import time
from contextlib import ExitStack

from s2l_jax.core.outcome import Preemptions
from s2l_jax.core.plan import StepPlan
from serving.client import Client, HostStats, SamplingParams
from serving.protos.s2l.v1 import info_pb2
from tests.serving.harness import TIMEOUT_S, Sizes, threaded_world

ONE = SamplingParams(max_tokens=1)
TWO = SamplingParams(max_tokens=2)


def test_stats_follow_blocks_to_the_host_and_back() -> None:
    is_held, is_released = threading.Event(), threading.Event()

    def hook(plan: StepPlan) -> None:
        if any(chunk.start >= 160 for chunk in plan.chunks):
            is_held.set()
            assert is_released.wait(TIMEOUT_S)

    sizes = Sizes(num_blocks=64, host_blocks=64, hook=hook)
    with threaded_world(sizes) as one, Client(one.target, timeout_s=10) as client, ExitStack() as stack:
        stack.callback(is_released.set)
        assert client.stats().host == HostStats(total=64, free=64)
        stream = stack.enter_context(client.session(ONE, content="s" * 160))
        while client.stats().held_blocks < 40:
            time.sleep(0.005)
        other = stack.enter_context(client.session(TWO, content="o" * 160, final=True))
        assert is_held.wait(TIMEOUT_S)
        away = client.stats()
        is_released.set()
        assert other.result().text == one.expected("o" * 160, 2)
        stream.finish()
        result = stream.result()
        back = client.stats()
    # The other one's 41 blocks leave 23 to the stream, whose end is gone.
    assert away.host.swapped >= 40 - 23
    assert away.host.free + away.host.backups + away.host.swapped == away.host.total == 64
    assert away.preemptions["swap"] + away.preemptions["drop"] == away.preemptions["tail"] >= 1
    assert away.preemptions["saved_blocks"] + away.preemptions["backup_blocks"] >= away.host.swapped
    assert result.text == one.expected("s" * 160, 1)
    assert result.done.restored_tokens > 0
    assert back.preemptions["loaded_blocks"] >= away.host.swapped
    assert back.host.swapped == 0
    assert 0 < back.cached_blocks <= back.free_blocks == back.total_blocks == 64


def test_every_counter_of_preemptions_is_on_the_wire() -> None:
    assert list(info_pb2.Preemptions.DESCRIPTOR.fields_by_name) == list(Preemptions.__dataclass_fields__)
