"""One line for each session that has ended."""

import logging
from typing import Any

from serving.watch.record import SessionRecord

_log = logging.getLogger(__name__)


def log_end(record: SessionRecord) -> None:
    """Logs a session's end: `info`, or `warning` if an error ended it."""
    level = logging.WARNING if record.status else logging.INFO
    if not _log.isEnabledFor(level):
        return
    opening = record.opening
    fields: dict[str, Any] = {
        "reason": record.status or record.reason,
        "context_tokens": record.context_tokens,
        "output_tokens": record.output_tokens,
        "chunks": record.chunk_count,
        "duration_s": _rounded(None if record.end_s is None else record.end_s - opening.now_s),
        "ttft_final_s": _rounded(record.ttft_final_s),
        "ttft_open_s": _rounded(record.ttft_open_s),
    }
    _log.log(
        level,
        "session %s ended: %s, %d context tokens in %d chunks, %d output tokens, first one after %s s",
        opening.session_id,
        fields["reason"],
        record.context_tokens,
        record.chunk_count,
        record.output_tokens,
        fields["ttft_final_s"],
        extra={"session": opening.session_id, "tenant": opening.tenant, "fields": fields},
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
