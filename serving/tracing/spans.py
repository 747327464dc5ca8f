"""From the record of a session to its spans."""

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from serving.watch.record import SessionRecord

_PROPAGATOR = TraceContextTextMapPropagator()


def write_spans(tracer: Tracer, record: SessionRecord, model: str, offset_ns: int) -> None:
    """Writes the spans of a session that has ended: itself, and below it arrival, queue, prefill and decode.

    The session's span has an event for each chunk, each engine, the first token and the end. Attributes are named as
    OpenTelemetry's conventions for generative AI name them, and under `s2l.` where they have no name.

    Args:
      tracer: takes the spans.
      record: of the session.
      model: name of the served model.
      offset_ns: what the record's clock lacks to nanoseconds since 1970.
    """
    if record.end_s is None:
        return

    def to_ns(at_s: float) -> int:
        return offset_ns + int(at_s * 1e9)

    open_s = record.opening.now_s
    root = tracer.start_span(
        "session", _parent(record), SpanKind.SERVER, attributes=_attributes(record, model), start_time=to_ns(open_s)
    )
    for name, at_s, attributes in sorted(_events(record), key=lambda event: event[1]):
        root.add_event(name, attributes, to_ns(at_s))
    root.add_event("end", {"s2l.reason": record.reason}, to_ns(record.end_s))
    inside = trace.set_span_in_context(root, Context())
    for name, start_s, end_s, attributes in _parts(record):
        span = tracer.start_span(name, inside, attributes=attributes, start_time=to_ns(start_s))
        span.end(to_ns(max(start_s, end_s)))
    if record.status:
        root.set_status(Status(StatusCode.ERROR, record.status))
    root.end(to_ns(record.end_s))


def _events(record: SessionRecord) -> list[tuple[str, float, dict[str, AttributeValue]]]:
    events: list[tuple[str, float, dict[str, AttributeValue]]] = []
    for chunk in record.chunks:
        attributes: dict[str, AttributeValue] = {
            "s2l.context_tokens": chunk.context_tokens,
            "s2l.kept_tokens": chunk.kept_tokens,
            "s2l.invalidated_tokens": chunk.invalidated_tokens,
        }
        events.append((chunk.op, chunk.at_s, attributes))
    events += [("engine", at_s, {"s2l.engine": engine}) for engine, at_s in record.engines]
    if record.first_token_s is not None:
        events.append(("first_token", record.first_token_s, {}))
    return events


def _parent(record: SessionRecord) -> Context:
    if record.parent is None:
        return Context()
    parent, state = record.parent
    return _PROPAGATOR.extract({"traceparent": parent, "tracestate": state}, Context())


def _attributes(record: SessionRecord, model: str) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue | None] = {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "s2l",
        "gen_ai.request.model": model,
        "gen_ai.request.max_tokens": record.opening.max_tokens,
        "gen_ai.usage.input_tokens": record.context_tokens,
        "gen_ai.usage.output_tokens": record.output_tokens,
        "gen_ai.response.finish_reasons": (record.reason,),
        "s2l.session": record.opening.session_id,
        "s2l.tenant": record.opening.tenant or None,
        "s2l.chunks": record.chunk_count,
        "s2l.invalidated_tokens": record.invalidated_tokens,
        "s2l.ttft_open_s": record.ttft_open_s,
        "s2l.ttft_final_s": record.ttft_final_s,
    }
    if record.stats is not None:
        found["s2l.reused_tokens"] = record.stats.reused_tokens
        found["s2l.restored_tokens"] = record.stats.restored_tokens
        found["s2l.recomputed_tokens"] = record.stats.recomputed_tokens
        found["s2l.preemptions"] = record.stats.preemptions
    return {name: value for name, value in found.items() if value is not None}


def _parts(record: SessionRecord) -> list[tuple[str, float, float, dict[str, AttributeValue]]]:
    end_s = record.opening.now_s if record.end_s is None else record.end_s
    parts: list[tuple[str, float, float, dict[str, AttributeValue]]] = []
    final_s = end_s if record.final_s is None else record.final_s
    if not record.opening.final:
        arrival: dict[str, AttributeValue] = {
            "s2l.chunks": record.chunk_count,
            "s2l.context_tokens": record.context_tokens,
        }
        parts.append(("arrival", record.opening.now_s, final_s, arrival))
    if record.final_s is not None and record.service_s is not None:
        parts.append(("queue", record.final_s, record.service_s, {}))
    if record.prefill_start_s is not None:
        prefill: dict[str, AttributeValue] = {
            "s2l.steps": record.prefill_steps,
            "s2l.step_time_s": record.prefill_s,
            "s2l.computed_tokens": record.prefill_tokens,
            "s2l.recomputed_tokens": record.recomputed_tokens,
        }
        done_s = end_s if record.first_token_s is None else record.first_token_s
        parts.append(("prefill", record.prefill_start_s, done_s, prefill))
    if record.first_token_s is not None:
        parts.append(("decode", record.first_token_s, end_s, {"gen_ai.usage.output_tokens": record.output_tokens}))
    return parts
