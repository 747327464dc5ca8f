"""Sets up logging for a server."""

import contextlib
import logging
import queue
import sys
from collections.abc import Iterator
from logging.handlers import QueueHandler, QueueListener
from typing import TextIO

from serving.logs.formats import FORMATS
from serving.watch.book import Book

_OURS = ("s2l_jax", "serving", "cost_profiles")
_MOST_QUEUED = 10_000


class Logs:
    """Logging as it is set up.

    Attributes:
      book: knows whose sessions are, as soon as there is one.
    """

    def __init__(self) -> None:
        self.book: Book | None = None

    def add_tenant(self, record: logging.LogRecord) -> bool:
        """Names the tenant of the session that a line is about; a filter that lets everything pass."""
        session = getattr(record, "session", "")
        if session and self.book is not None and not getattr(record, "tenant", ""):
            record.tenant = self.book.tenant_of(session)
        return True


@contextlib.contextmanager
def logging_to(log_format: str, level: str, stream: TextIO | None = None) -> Iterator[Logs]:
    """Logs to a stream while the block runs.

    Lines are written by a thread of their own, so that a stream which is not read cannot hold up who logs. If it is not
    read for long, lines are dropped, and a line says how many.

    Args:
      log_format: `text` or `json`.
      level: the least level of our own lines; those of libraries are logged from `warning` on.
      stream: where to; None is stderr.
    """
    logs = Logs()
    writer = logging.StreamHandler(sys.stderr if stream is None else stream)
    writer.setFormatter(FORMATS[log_format]())
    lines: queue.Queue[logging.LogRecord] = queue.Queue(_MOST_QUEUED)
    handler = _Dropping(lines)
    handler.addFilter(logs.add_tenant)
    listener = QueueListener(lines, writer)
    root = logging.getLogger()
    root.addHandler(handler)
    least = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(max(least, logging.WARNING))
    before = {name: logging.getLogger(name).level for name in _OURS}
    for name in _OURS:
        logging.getLogger(name).setLevel(least)
    listener.start()
    try:
        yield logs
    finally:
        root.removeHandler(handler)
        for name, was in before.items():
            logging.getLogger(name).setLevel(was)
        listener.stop()


class _Dropping(QueueHandler):
    """Never waits."""

    def __init__(self, lines: "queue.Queue[logging.LogRecord]") -> None:
        super().__init__(lines)
        self._lines = lines
        self._dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Leaves it as it is: it stays in this process, and the format wants its exception."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Hands a line on, or drops it. The handler's lock is held."""
        try:
            if self._dropped:
                text = f"{self._dropped} log lines were dropped, since nobody read them"
                self._lines.put_nowait(logging.makeLogRecord({"name": __name__, "levelname": "WARNING", "msg": text}))
                self._dropped = 0
            self._lines.put_nowait(record)
        except queue.Full:
            self._dropped += 1
