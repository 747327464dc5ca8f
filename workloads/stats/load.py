"""The figures of a trace in a file."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from workloads.readers.convert import header_of
from workloads.readers.encode import Encoding, text_encoding
from workloads.readers.found import Draft, Progress, ReadOptions, TextEvent, ignore
from workloads.readers.internal import open_internal
from workloads.stats.stats import TraceStats, gather
from workloads.trace import Event

_TOLD = "as the trace has them"


def file_stats(path: Path, encoding: Encoding, progress: Progress = ignore) -> TraceStats:
    """Reads a trace once.

    Args:
      path: the file.
      encoding: gives texts their tokens; not `text_encoding`.
      progress: told how far it is.

    Raises:
      TraceError: a line is wrong.
    """
    source = open_internal(path, ReadOptions(), progress)
    has_text = False

    def sessions() -> Iterator[Sequence[Event]]:
        nonlocal has_text
        for found in source.found:
            assert isinstance(found, Draft)
            has_text = has_text or any(isinstance(event, TextEvent) and event.pieces for event in found.events)
            yield encoding.encode(found.events)

    stats = gather(header_of(source, text_encoding()), sessions())
    told = str(source.details.get("tokens", _TOLD))
    return replace(stats, counted=encoding.tokens if has_text else told)
