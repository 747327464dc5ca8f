"""Traces that were never a file."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from workloads.trace import Header, Session, Trace


def trace_of(name: str, source: str, details: dict[str, Any], sessions: Sequence[Session]) -> Trace:
    """A trace of these sessions; its hash is that of what it was made from, since that determines it."""
    made_from = json.dumps({"name": name, **details}, sort_keys=True)
    ordered = tuple(sorted(sessions, key=lambda session: session.arrival_s))
    return Trace(Header(name, source, details), ordered, hashlib.sha256(made_from.encode()).hexdigest())
