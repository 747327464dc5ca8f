"""One trace for each session, below the trace of the client that opened it."""

import http.server
import threading
from collections.abc import Iterator

import grpc.aio
import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.core.params import SamplingParams
from s2l_jax.models.tokenizer import ByteTokenizer
from serving.http.server import HttpConfig, HttpServer
from serving.metrics.readings import ServerFacts
from serving.protos.s2l.v1 import streaming_pb2 as pb
from serving.protos.s2l.v1 import streaming_pb2_grpc
from serving.tracing.tracing import Tracing, otlp_processor
from serving.watch.config import WatchConfig
from serving.watch.observation import observe
from tests.orchestrator.harness import Recorder
from tests.orchestrator.harness import world as orchestrator_world
from tests.serving.harness import TIMEOUT_S, run, world

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


def _by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_stream_becomes_a_trace_with_its_parts() -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing(SimpleSpanProcessor(exporter), "fake-1b")
    with orchestrator_world() as w:
        observe(w.orchestrator, ServerFacts("fake-1b"), on_end=(tracing.end,))
        sink = Recorder()
        w.orchestrator.open(
            sink=sink, session_id="s", content="abcdefgh", tenant="acme", params=SamplingParams(max_tokens=3)
        )
        w.orchestrator.append("s", "ijkl")
        w.orchestrator.update("s", "xyz", keep_chars=10, final=True)
        assert sink.done
    tracing.close()
    spans = _by_name(exporter)
    assert set(spans) == {"session", "arrival", "queue", "prefill", "decode"}
    root = spans["session"]
    attributes = dict(root.attributes or {})
    assert root.parent is None
    assert attributes["gen_ai.request.model"] == "fake-1b"
    assert attributes["gen_ai.usage.input_tokens"] == 13
    assert attributes["gen_ai.usage.output_tokens"] == 3
    assert attributes["gen_ai.response.finish_reasons"] == ("length",)
    assert (attributes["s2l.session"], attributes["s2l.tenant"]) == ("s", "acme")
    names = [event.name for event in root.events]
    assert [name for name in names if name != "engine"][:3] == ["open", "append", "update"]
    times = [event.timestamp for event in root.events]
    assert times == sorted(times)
    assert names[-2:] == ["first_token", "end"]
    assert "engine" in names
    update = dict(root.events[names.index("update")].attributes or {})
    assert (update["s2l.context_tokens"], update["s2l.kept_tokens"]) == (13, 10)
    prefill = dict(spans["prefill"].attributes or {})
    assert int(str(prefill["s2l.computed_tokens"])) >= 13
    assert int(str(prefill["s2l.steps"])) >= 1
    assert root.start_time is not None and root.end_time is not None
    for name in ("arrival", "queue", "prefill", "decode"):
        span = spans[name]
        assert span.parent is not None and root.context is not None
        assert span.parent.span_id == root.context.span_id
        assert span.start_time is not None and span.end_time is not None
        assert root.start_time <= span.start_time <= span.end_time <= root.end_time


def test_a_failed_session_is_an_error() -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing(SimpleSpanProcessor(exporter), "m")
    with orchestrator_world() as w:
        observe(w.orchestrator, ServerFacts("m"), on_end=(tracing.end,))
        w.orchestrator.open(sink=Recorder(), session_id="s", content="ab")
        w.orchestrator.drain(0.0)
    tracing.close()
    root = _by_name(exporter)["session"]
    assert not root.status.is_ok
    assert root.status.description == "UNAVAILABLE"


def test_the_clients_trace_goes_on_over_http_and_grpc() -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing(SimpleSpanProcessor(exporter), "m")

    async def scenario() -> None:
        async with world() as w:
            observe(w.orchestrator, ServerFacts("m"), on_end=(tracing.end,))
            server = HttpServer(w.orchestrator, w.server._model, ByteTokenizer(), None, HttpConfig(port=0))
            port = await server.start()
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT_S) as client:
                body = {"prompt": "abc", "max_tokens": 2}
                for headers in ({"traceparent": PARENT}, {}, {"traceparent": "nonsense"}):
                    answer = await client.post("/v1/completions", json=body, headers=headers)
                    assert answer.status_code == 200
                opened = await client.post(
                    "/v1/sessions", json={"content": "abc", "final": True}, headers={"traceparent": PARENT}
                )
                assert opened.status_code == 201
                assert "done" in (await client.get(f"/v1/sessions/{opened.json()['session_id']}/output")).text
            async with grpc.aio.insecure_channel(f"127.0.0.1:{w.port}") as channel:
                stub = streaming_pb2_grpc.StreamingContextStub(channel)
                for metadata in ((("traceparent", PARENT),), ()):
                    requests = iter([pb.SessionRequest(open=pb.Open(content=pb.Content(text="abc"), final=True))])
                    async for _ in stub.Session(requests, metadata=metadata):
                        pass
            await server.stop()

    run(scenario)
    tracing.close()
    roots = [span for span in exporter.get_finished_spans() if span.name == "session"]
    parents = [None if root.parent is None else (root.parent.trace_id, root.parent.span_id) for root in roots]
    carried = int(TRACE_ID, 16), int(SPAN_ID, 16)
    assert parents == [carried, None, None, carried, carried, None]


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """Receives OTLP over HTTP: its URL, and what it has received."""
    received: list[ExportTraceServiceRequest] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            received.append(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    thread.join()
    server.server_close()


def test_traces_reach_a_collector(collector: tuple[str, list[ExportTraceServiceRequest]]) -> None:
    url, received = collector
    tracing = Tracing(otlp_processor(url), "fake-1b", "1.2.3")
    with orchestrator_world() as w:
        observe(w.orchestrator, ServerFacts("fake-1b"), on_end=(tracing.end,))
        assert w.ask("abc").done
    tracing.close()
    spans = [span for one in received for r in one.resource_spans for scope in r.scope_spans for span in scope.spans]
    assert {span.name for span in spans} == {"session", "queue", "prefill", "decode"}
    resource = {a.key: a.value.string_value for a in received[0].resource_spans[0].resource.attributes}
    assert resource["service.name"] == "s2l"
    assert resource["service.version"] == "1.2.3"


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="--otlp-endpoint is 'localhost:4317'"):
        WatchConfig(otlp_endpoint="localhost:4317")
    assert WatchConfig(otlp_endpoint="http://localhost:4318")
