"""How a line looks."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

FIELDS = ("session", "tenant")
"""What a line about a session carries, beside its text."""


class TextFormat(logging.Formatter):
    """A line to read: time, level, logger, text."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")


class JsonFormat(logging.Formatter):
    """One JSON object a line: ts, level, logger, message; session and tenant where it is about a session; exception."""

    def format(self, record: logging.LogRecord) -> str:
        """The object."""
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in FIELDS if getattr(record, name, "")}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


FORMATS: dict[str, type[logging.Formatter]] = {"text": TextFormat, "json": JsonFormat}
