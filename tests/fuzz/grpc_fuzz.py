"""Fuzzes the gRPC services: random bytes, random messages in any order, and sensible ones that are cut off."""

import queue
import time
from collections import Counter
from collections.abc import Iterator

import grpc
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from serving.protos.jetstream.core.proto import jetstream_pb2
from serving.protos.s2l.v1 import streaming_pb2 as pb

# What a client can bring about. INTERNAL and UNKNOWN are defects, UNAVAILABLE a dead server.
ALLOWED = {
    "OK",
    "CANCELLED",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "UNIMPLEMENTED",
}
METHODS = (
    "/s2l.v1.StreamingContext/Session",
    "/s2l.v1.Info/GetModel",
    "/s2l.v1.Info/GetStats",
    "/jetstream_proto.Orchestrator/Decode",
    "/jetstream_proto.Orchestrator/HealthCheck",
    "/v1/models",
    "/v1/load_lora_adapter",
    "/grpc.health.v1.Health/Check",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/s2l.v1.StreamingContext/Nothing",
)
SESSION, DECODE = METHODS[0], METHODS[3]
_CALL_TIMEOUT_S = 20.0
_OWN_DEADLINE = "Deadline Exceeded"  # what the client's library says when the server has not answered

_U32, _U64, _I32 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(-(2**31), 2**31 - 1)
_SMALL, _TOKEN = st.integers(0, 8), st.integers(0, 2**31 - 1)
_TEXT = st.text(max_size=40) | st.text("ab ", min_size=1, max_size=300)
_REAL = st.floats(width=32) | st.sampled_from([0.0, 0.5, 1.0])
_IDS = st.lists(st.integers(0, 260) | _I32, max_size=30)

_contents = st.one_of(
    st.builds(lambda text: pb.Content(text=text), _TEXT),
    st.builds(lambda ids: pb.Content(token_ids=pb.TokenIds(ids=ids)), st.lists(st.integers(0, 257), max_size=30)),
    st.builds(lambda ids: pb.Content(token_ids=pb.TokenIds(ids=ids)), st.lists(_TOKEN, max_size=5)),
    st.just(pb.Content()),
    st.none(),
)
_params = st.builds(
    pb.SamplingParams,
    max_tokens=_SMALL | _U32,
    temperature=_REAL,
    top_p=_REAL,
    top_k=_SMALL | _U32,
    min_p=_REAL,
    seed=st.none() | _U64,
    stop=st.lists(st.text(max_size=5), max_size=3),
    stop_token_ids=st.lists(_SMALL | _TOKEN, max_size=3),
    ignore_eos=st.booleans(),
    repetition_penalty=_REAL,
    presence_penalty=_REAL,
    frequency_penalty=_REAL,
    logprobs=st.none() | _SMALL | _U32,
)
_tame = st.builds(pb.SamplingParams, max_tokens=st.integers(1, 30), logprobs=st.none() | st.integers(0, 3))
_opens = st.builds(
    pb.Open,
    session_id=st.sampled_from(["", "a", "b"]) | st.text(max_size=140),
    content=_contents,
    params=_tame | _params,
    final=st.booleans(),
    add_bos=st.booleans(),
    priority=st.integers(-3, 3) | _I32,
    first_token_within_s=st.none() | _REAL,
)
_appends = st.builds(pb.Append, content=_contents, final=st.booleans())
_updates = st.builds(
    pb.Update, keep_tokens=_SMALL | _U32, keep_chars=_SMALL | _U32, content=_contents, final=st.booleans()
)
_events = st.one_of(
    st.builds(lambda one: {"open": one}, _opens),
    st.builds(lambda one: {"append": one}, _appends),
    st.builds(lambda one: {"update": one}, _updates),
    st.just({"finish": pb.Finish()}),
    st.just({"cancel": pb.Cancel()}),
    st.just({}),
)
_seqs = st.just(0) | st.integers(0, 5) | _U64
_any_requests = st.builds(lambda seq, event: pb.SessionRequest(seq=seq, **event), _seqs, _events)
_first = st.builds(
    lambda text, params: pb.SessionRequest(open=pb.Open(content=pb.Content(text=text), params=params)), _TEXT, _tame
)
_streams = st.one_of(
    st.lists(_any_requests, max_size=6),
    st.builds(lambda first, rest: [first, *rest], _first, st.lists(_any_requests, max_size=6)),
)
_decodes = st.builds(
    lambda text, ids, **fields: jetstream_pb2.DecodeRequest(
        **fields,
        **({} if text is None else {"text_content": jetstream_pb2.DecodeRequest.TextContent(text=text)}),
        **({} if ids is None else {"token_content": jetstream_pb2.DecodeRequest.TokenContent(token_ids=ids)}),
    ),
    text=st.none() | _TEXT,
    ids=st.none() | _IDS,
    max_tokens=_SMALL | _I32,
    num_samples=_SMALL | _I32,
    lora_adapter_id=st.just("") | _TEXT,
    has_bos=st.booleans(),
)
_bytes = st.tuples(
    st.sampled_from(METHODS),
    st.lists(st.binary(max_size=200) | _any_requests.map(lambda m: m.SerializeToString()), max_size=4),
)
_calls = st.one_of(
    _bytes,
    _streams.map(lambda requests: (SESSION, [one.SerializeToString() for one in requests])),
    _streams.map(lambda requests: (SESSION, [one.SerializeToString() for one in requests])),
    _decodes.map(lambda one: (DECODE, [one.SerializeToString()])),
)


class GrpcFuzzer:
    """Sends what hypothesis makes up, and looks at the statuses that come back.

    Attributes:
      statuses: how often each one came.
    """

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self.statuses: Counter[str] = Counter()

    def run(self, examples: int, number: int) -> None:
        """Makes some calls; a failure is cut down to the least that still fails, and raised."""

        @seed(number)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(_calls, st.none() | st.floats(0, 0.05), st.booleans())
        def one(call: tuple[str, list[bytes]], cut_s: float | None, half_close: bool) -> None:
            self._call(*call, cut_s, half_close=half_close)

        one()

    def close(self) -> None:
        self._channel.close()

    def _call(self, method: str, messages: list[bytes], cut_s: float | None, *, half_close: bool) -> None:
        """One call.

        Args:
          method: its path.
          messages: what is sent.
          cut_s: after this time the call is cancelled; None waits for its end.
          half_close: say that nothing more comes; else the server has to end it by itself.
        """
        waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        for message in messages:
            waiting.put(message)
        if half_close or method != SESSION:
            waiting.put(None)
        requests: Iterator[bytes] = iter(waiting.get, None)
        start = self._channel.stream_stream(method, lambda data: data, lambda data: data)
        call = start(requests, timeout=_CALL_TIMEOUT_S)
        try:
            if cut_s is not None:
                time.sleep(cut_s)
                call.cancel()
            for _ in call:
                pass
        except grpc.RpcError:
            pass
        finally:
            waiting.put(None)
        status, details = call.code().name, call.details()
        self.statuses[status] += 1
        assert status in ALLOWED, f"{method} {messages}: {status}, {details}"
        assert status != "DEADLINE_EXCEEDED" or details != _OWN_DEADLINE, f"{method} {messages}: no end"
        assert "Traceback" not in details and "Exception" not in details, details
