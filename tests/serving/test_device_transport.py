"""KV from device to device between processes, for those who ask for it; gRPC where that does not work."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from s2l_jax.core.errors import InvalidArgument
from serving.config import ServeConfig
from serving.remote.choice import check_host, transport_between
from serving.remote.device_transport import probe
from serving.remote.engine import RemoteEngine
from serving.remote.transport import GrpcTransport
from serving.world.config import WorldConfig
from tests.serving.remote_harness import make_engine, serve
from tests.serving.test_remote_processes import TIMEOUT_S, Server, answer, ended


def test_pages_are_pulled() -> None:
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "tests.serving.pulled_pages"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    streams, streams_after, links, refusals, probes = json.loads(done.stdout.splitlines()[-1])
    assert streams == {"wrong": [], "handoffs": 24, "resumed": 0, "pulls": [True, True]}
    assert streams_after == {"wrong": [], "handoffs": 24, "resumed": 0, "pulls": [False, True]}
    assert links["equal"] == [True] * 4
    assert "nothing has come in 0.5 s" in links["missing"]
    assert "but this engine's are" in refusals["shape"]
    assert "in int32 came, but this engine's are" in refusals["dtype"]
    assert "without --kv-transport jax" in refusals["without"]
    assert probes == {"good": None, "bad": "nothing has come in 4 s"}


def test_nothing_is_pulled_from_an_engine_that_does_not_offer(caplog: pytest.LogCaptureFixture) -> None:
    server = serve("generate", make_engine())
    engine = RemoteEngine(f"127.0.0.1:{server.port}")
    engine.describe()
    with caplog.at_level(logging.WARNING):
        probe([engine], "127.0.0.1")
    assert not engine.pulls
    assert f"KV to and from {engine.address} goes in messages: it was started without" in caplog.text
    assert type(transport_between("auto", [engine], "127.0.0.1")) is GrpcTransport
    engine.close()
    server.stop()


def test_where_it_would_be_unsafe_it_is_refused() -> None:
    check_host("10.0.0.2", has_tls=False)
    with pytest.raises(InvalidArgument, match="give --host an address"):
        check_host("0.0.0.0", has_tls=False)
    with pytest.raises(InvalidArgument, match="in the clear"):
        check_host("10.0.0.2", has_tls=True)
    with pytest.raises(InvalidArgument, match="--kv-transport is 'tcp', but must be one of auto, grpc, jax"):
        ServeConfig(kv_transport="tcp")
    with pytest.raises(InvalidArgument, match="of one process each"):
        ServeConfig(slices="cpu=2", kv_transport="jax", world=WorldConfig(2, 0, "10.0.0.2"))


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_processes_pull_from_each_other(tmp_path: Path) -> None:
    """One of each role beside the orchestrator's own engine, so that pages go three ways; answers are those of gRPC."""
    answers = {}
    for kind in ("grpc", "jax"):
        option = ("--kv-transport", kind)
        others = [Server(tmp_path, role, "--role", role, "--port", "0", *option) for role in ("prefill", "generate")]
        with ended(others):
            peers = ",".join(f"127.0.0.1:{server.port}" for server in others)
            front = Server(
                tmp_path, "front", "--role", "prefill", "--peers", peers, "--port", "0", "--http-port", "0", *option
            )
            others.append(front)
            target = f"grpc://127.0.0.1:{front.port}"
            answers[kind] = [list(answer(target, seed))[-1] for seed in range(4)]
            front.process.send_signal(signal.SIGTERM)
            said = front.process.communicate(timeout=TIMEOUT_S)[1].decode()
            assert "goes in messages" not in said
    assert answers["jax"] == answers["grpc"]
