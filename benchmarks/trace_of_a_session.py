"""Prints the trace of one stream as a collector receives it: `python -m benchmarks.trace_of_a_session`.

The model is the tiny random one; the extra `otel` is needed.
"""

import http.server
import threading
import time

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from s2l_jax.core.params import SamplingParams
from s2l_jax.orchestrator.events import DoneEvent, FailedEvent, SinkEvent
from serving.assembly import assemble
from serving.config import ServeConfig
from serving.metrics.readings import ServerFacts
from serving.tracing.context import TRACE_PARENT
from serving.tracing.tracing import Tracing, otlp_processor
from serving.watch.observation import observe

_SHOWN = ("s2l.", "gen_ai.usage", "gen_ai.response")


class _Collector(http.server.BaseHTTPRequestHandler):
    """Keeps the spans it is sent."""

    spans: list[Span]

    def do_POST(self) -> None:
        request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
        self.spans += [s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Says nothing."""


def main() -> None:
    """Runs a stream and prints its spans."""
    _Collector.spans = []
    server = http.server.HTTPServer(("127.0.0.1", 0), _Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = ServeConfig(
        model="tiny-random", max_model_len=512, kv_blocks=64, token_budget=64, max_batch=4, max_sessions=4
    )
    assembly = assemble(config)
    orchestrator = assembly.orchestrator
    tracing = Tracing(otlp_processor(f"http://127.0.0.1:{server.server_port}"), assembly.model.name)
    observe(orchestrator, ServerFacts(assembly.model.name), on_end=(tracing.end,))
    ended = threading.Event()

    def sink(event: SinkEvent) -> None:
        if isinstance(event, DoneEvent | FailedEvent):
            ended.set()

    TRACE_PARENT.set(("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", ""))
    params = SamplingParams(max_tokens=8, ignore_eos=True)
    orchestrator.open(sink=sink, session_id="demo", content="The cat is called Mia. " * 4, params=params)
    time.sleep(0.2)
    orchestrator.append("demo", "The dog is called Tom. ")
    time.sleep(0.2)
    orchestrator.update("demo", "The dog is called Rex. The name of the dog is", keep_chars=92, final=True)
    ended.wait(60)
    orchestrator.close()
    tracing.close()
    server.shutdown()
    _print(_Collector.spans)


def _print(spans: list[Span]) -> None:
    root = next(span for span in spans if span.name == "session")
    print(f"trace {root.trace_id.hex()}, below span {root.parent_span_id.hex()}")
    for span in sorted(spans, key=lambda one: (one is not root, one.start_time_unix_nano)):
        start_ms = (span.start_time_unix_nano - root.start_time_unix_nano) / 1e6
        took_ms = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
        shown = {a.key: _value(a.value) for a in span.attributes if a.key.startswith(_SHOWN)}
        print(f"{'' if span is root else '  '}{span.name:<9}at {start_ms:7.1f} ms for {took_ms:7.1f} ms")
        for name, value in shown.items():
            print(f"      {name} = {value}")
        for event in span.events:
            at_ms = (event.time_unix_nano - root.start_time_unix_nano) / 1e6
            print(
                f"    * {event.name} at {at_ms:.1f} ms { ({a.key: _value(a.value) for a in event.attributes} or '') }"
            )


def _value(value: object) -> object:
    kind = value.WhichOneof("value")  # type: ignore[attr-defined]
    found = getattr(value, kind)
    if kind == "array_value":
        return [_value(one) for one in found.values]
    return round(found, 4) if kind == "double_value" else found


if __name__ == "__main__":
    main()
