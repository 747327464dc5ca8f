"""Opens files of traces, compressed ones (`.gz`) among them."""

import gzip
import io
from pathlib import Path
from typing import IO, cast


def open_lines(path: Path) -> IO[bytes]:
    """Opens a file for reading, line by line.

    Raises:
      OSError: it cannot be opened.
    """
    return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def create(path: Path, *, compress: bool) -> IO[str]:
    """Creates a file for text; the bytes depend on the text alone, so that equal traces have equal hashes."""
    if not compress:
        return path.open("w", encoding="utf-8", newline="\n")
    raw = path.open("wb")
    packed = _OwningGzip(raw)
    return io.TextIOWrapper(cast(IO[bytes], packed), encoding="utf-8", newline="\n")


class _OwningGzip(gzip.GzipFile):
    """Closes the file beneath it as well."""

    def __init__(self, raw: IO[bytes]) -> None:
        super().__init__(filename="", mode="wb", fileobj=raw, mtime=0)
        self._raw = raw

    def close(self) -> None:
        super().close()
        self._raw.close()
