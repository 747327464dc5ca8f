"""The blocking client, and what both clients promise beyond the wire."""

import subprocess
import sys
import threading
import time
from dataclasses import asdict

import pytest

from s2l_jax.core.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InternalError,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)
from s2l_jax.core.outcome import Preemptions
from serving.client import Accepted, Client, Done, HostStats, SamplingParams, Token
from serving.client.channel import address_of
from serving.client.transcript import Transcript
from serving.protos.s2l.v1 import streaming_pb2 as pb
from serving.status import Cancelled
from tests.serving.harness import Sizes, threaded_world

GREEDY = SamplingParams(max_tokens=6)


def test_importing_the_client_does_not_import_an_accelerator_library() -> None:
    program = "import serving.client, sys; sys.exit(bool({'jax', 'flax', 'numpy'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=30).returncode == 0


def test_session_in_pieces() -> None:
    with threaded_world() as one, Client(one.target, timeout_s=10) as client:
        with client.session(GREEDY) as session:
            session.append("The quick ")
            session.update("The slow ", keep_chars=0)
            session.update("red fox", keep_chars=9, final=True)
            text = "".join(token.text for token in session.tokens())
            result = session.result()
        assert text == result.text == one.expected("The slow red fox", 6)
        assert session.session_id == result.session_id
        assert result.ttft_final_s is not None and result.ttft_open_s is not None
        assert 0 < result.ttft_final_s <= result.ttft_open_s
        assert client.generate("The slow red fox", GREEDY).token_ids == result.token_ids


def test_events_are_typed() -> None:
    with threaded_world() as one, Client(one.target, timeout_s=10) as client:
        with client.session(SamplingParams(max_tokens=2, logprobs=2), content="ab", final=True) as session:
            events = list(session.events())
        assert isinstance(events[0], Accepted) and events[0].context_tokens == 2
        assert isinstance(events[-1], Done) and events[-1].output_tokens == 2
        tokens = [event for event in events if isinstance(event, Token)]
        assert all(len(token.logprobs) == len(token.ids) == len(token.top) for token in tokens)
        assert len(tokens[0].top[0]) == 2


def test_errors_are_typed_and_carry_a_hint() -> None:
    with threaded_world(Sizes(max_sessions=1, retry_after_s=2.5)) as one, Client(one.target, timeout_s=10) as client:
        with pytest.raises(InvalidArgument, match="limit of 256"):
            client.generate("x" * 300, GREEDY)
        with client.session(content="x") as session:
            assert isinstance(next(session.events()), Accepted)
            with pytest.raises(ResourceExhausted) as caught:
                client.generate("y", GREEDY)
            assert caught.value.retry_after_s == pytest.approx(2.5)
        with pytest.raises(Cancelled):
            session.result()


def test_deadline() -> None:
    with threaded_world() as one, Client(one.target) as client, client.session(timeout_s=0.2) as session:
        with pytest.raises(DeadlineExceeded):
            session.result()
        with pytest.raises(DeadlineExceeded):
            session.append("too late")


def test_misuse_is_told_at_once() -> None:
    with threaded_world() as one, Client(one.target, timeout_s=10) as client:
        with pytest.raises(FailedPrecondition, match="with"):
            client.session().append("x")
        with client.session(GREEDY, content="x", final=True) as session:
            with pytest.raises(FailedPrecondition, match="complete"):
                session.append("y")
            assert session.result().text == one.expected("x", 6)


def test_cancel() -> None:
    params = SamplingParams(max_tokens=200)
    with (
        threaded_world(Sizes(hook=lambda _: time.sleep(0.005))) as one,
        Client(one.target, timeout_s=10) as client,
        client.session(params, content="go", final=True) as session,
    ):
        next(session.tokens())
        session.cancel()
        assert session.result().finish_reason == "cancelled"


def test_model_and_stats() -> None:
    with threaded_world() as one, Client(one.target, timeout_s=10) as client:
        model = client.model()
        assert (model.name, model.max_model_len, model.eos_token_ids) == ("fake", 256, (257,))
        assert (model.server_version, model.policy) == ("0", "fcfs")
        assert model.prompt.whole(["a", "b"], "why?") == "<ab|why?>"
        client.generate("x", GREEDY)
        stats = client.stats()
        assert stats.free_blocks == stats.total_blocks == 512
        assert stats.steps == one.engine.steps > 0
        assert stats.cached_blocks == 2  # of seven tokens
        assert stats.host == HostStats()
        assert stats.preemptions == asdict(Preemptions())


def test_threads_end_with_their_sessions() -> None:
    with threaded_world() as one, Client(one.target, timeout_s=10) as client:
        client.generate("x", GREEDY)
        before = threading.active_count()
        for _ in range(20):
            client.generate("x", GREEDY)
            with client.session(content="left alone"):
                pass
        deadline = time.monotonic() + 5
        bound = before + 2  # the server's tokenizers start when they are first needed
        while threading.active_count() > bound and time.monotonic() < deadline:
            time.sleep(0.01)
        assert threading.active_count() <= bound


def test_nobody_there() -> None:
    with Client("127.0.0.1:1", timeout_s=5) as client:
        assert not client.wait_ready(0.2)
        with pytest.raises(Unavailable):
            client.model()


@pytest.mark.parametrize("target", ["grpc://host:1", "host:1", "grpc://host:1/"])
def test_targets(target: str) -> None:
    assert address_of(target) == "host:1"


@pytest.mark.parametrize("target", ["http://host:1", "host", "grpc://host", ":9", ""])
def test_bad_targets(target: str) -> None:
    with pytest.raises(InvalidArgument, match="HOST:PORT"):
        address_of(target)


def test_transcript_without_an_account_is_no_result() -> None:
    transcript = Transcript(time.perf_counter)
    transcript.open("x", None, session_id="", final=True, add_bos=False)
    with pytest.raises(InternalError):
        transcript.result()


def test_answers_of_a_newer_server_are_skipped() -> None:
    assert Transcript(time.perf_counter).fold(pb.SessionResponse()) is None


def test_the_client_goes_by_the_name_of_the_command() -> None:
    program = (
        "import s2l.client, serving.client\n"
        "assert s2l.client.__all__ == serving.client.__all__\n"
        "assert all(getattr(s2l.client, name) is getattr(serving.client, name) for name in s2l.client.__all__)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
