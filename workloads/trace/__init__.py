"""The internal trace: one JSON object a line, a header first, then the events of all sessions in order of time."""

from workloads.trace.event import OPS, TRACE_VERSION, Event, Header, Op, Part, Session, Trace, TraceError
from workloads.trace.reader import Checked, check_trace, read_events, read_trace
from workloads.trace.writer import TraceWriter, write_trace

__all__ = [
    "OPS",
    "TRACE_VERSION",
    "Checked",
    "Event",
    "Header",
    "Op",
    "Part",
    "Session",
    "Trace",
    "TraceError",
    "TraceWriter",
    "check_trace",
    "read_events",
    "read_trace",
    "write_trace",
]
