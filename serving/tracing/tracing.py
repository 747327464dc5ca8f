"""Exports the traces of sessions."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from serving.tracing.spans import write_spans
from serving.watch.record import SessionRecord

_log = logging.getLogger(__name__)
_MOST_QUEUED = 4096


class Tracing:
    """Turns records of ended sessions into spans, in a thread of its own, and hands these to a processor.

    If spans cannot be written as fast as sessions end, sessions are left out, and the log says how many.

    Args:
      processor: what becomes of the spans.
      model: name of the served model.
      version: of the server.
      clock: of the orchestrator.
    """

    def __init__(
        self,
        processor: SpanProcessor,
        model: str,
        version: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "s2l", "service.version": version}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("s2l", version)
        self._model = model
        self._clock = clock
        self._records: queue.Queue[SessionRecord | None] = queue.Queue(_MOST_QUEUED)
        self._dropped = 0
        self._thread = threading.Thread(target=self._main, name="s2l-tracing", daemon=True)
        self._thread.start()

    def end(self, record: SessionRecord) -> None:
        """Takes the record of a session that has ended; never waits."""
        try:
            self._records.put_nowait(record)
        except queue.Full:
            self._dropped += 1

    def close(self, timeout_s: float = 5.0) -> None:
        """Exports what is left, for a bounded time."""
        self._records.put(None)
        self._thread.join(timeout_s)
        self._provider.shutdown()
        if self._dropped:
            _log.warning("%d sessions were not traced, since more ended than could be written", self._dropped)

    def _main(self) -> None:
        while (record := self._records.get()) is not None:
            offset_ns = time.time_ns() - int(self._clock() * 1e9)
            try:
                write_spans(self._tracer, record, self._model, offset_ns)
            except Exception:  # noqa: BLE001 - one session's trace is lost, and the next one's is not
                name = record.opening.session_id
                _log.exception("session %s could not be traced", name, extra={"session": name})


def otlp_processor(endpoint: str) -> SpanProcessor:
    """Sends spans to a collector by OTLP over HTTP, in batches.

    Args:
      endpoint: its URL; without a path, `/v1/traces` is meant.
    """
    parts = urlsplit(endpoint)
    if parts.path in ("", "/"):
        endpoint = parts._replace(path="/v1/traces").geturl()
    return BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint))
