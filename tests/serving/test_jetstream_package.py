"""JetStream's own published stubs (`pip install --no-deps google-jetstream`), unmodified, against our server.

They run in a process of their own, since their descriptors have the names of ours.
"""

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.serving.harness import BOS, threaded_world

pytestmark = pytest.mark.skipif(importlib.util.find_spec("jetstream") is None, reason="no google-jetstream")

CLIENT = """
import json, sys
import grpc
from jetstream.core.proto import jetstream_pb2, jetstream_pb2_grpc

with grpc.insecure_channel(sys.argv[1]) as channel:
    stub = jetstream_pb2_grpc.OrchestratorStub(channel)
    answers = []
    for content in (
        {"text_content": jetstream_pb2.DecodeRequest.TextContent(text="AB")},
        {"token_content": jetstream_pb2.DecodeRequest.TokenContent(token_ids=[65, 66])},
    ):
        request = jetstream_pb2.DecodeRequest(session_cache="", priority=0, max_tokens=5, **content)
        samples = [one for response in stub.Decode(request) for one in response.stream_content.samples]
        answers.append([token for one in samples for token in one.token_ids])
    print(json.dumps(answers))
"""


def test_the_published_client_is_answered() -> None:
    with threaded_world() as one:
        result = subprocess.run(
            [sys.executable, "-c", CLIENT, f"127.0.0.1:{one.port}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert result.returncode == 0, result.stderr
        right = one.engine.reference_output([BOS, 65, 66], 5)
    assert json.loads(result.stdout) == [right, right]
