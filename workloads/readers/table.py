"""Rows of CSV files, with places to name in errors."""

import csv
import gzip
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, cast

from workloads.readers.found import Progress, RowError, ignore
from workloads.trace import TraceError

_LONGEST_FIELD = 1 << 30  # a crawled page is one field, and csv's own limit is 128 KiB
_REPORT_EVERY = 2000  # rows


class TableError(TraceError):
    """A file cannot be read as a table.

    Attributes:
      where: file and line.
      problem: what was found, and what was expected.
      missing: columns that it lacks; empty if that is not what is wrong.
    """

    def __init__(self, where: str, problem: str, missing: Sequence[str] = ()) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem
        self.missing = tuple(missing)


def read_table(path: Path, columns: Sequence[str], progress: Progress = ignore) -> Iterator[tuple[str, dict[str, str]]]:
    """Reads a CSV file, compressed if its name ends in `.gz`.

    Args:
      path: the file.
      columns: those that must be there; others may be, in any order.
      progress: told the bytes read.

    Yields:
      `("FILE:LINE", row)`; a row that lacks fields has empty ones, and those too many are left aside.

    Raises:
      TableError: the file cannot be read, or lacks a column.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    line = 1
    try:
        with path.open("rb") as raw:
            total = path.stat().st_size
            rows = csv.DictReader(_text(path, raw), restval="")
            _require(path, columns, rows.fieldnames)
            line = rows.line_num + 1
            for number, row in enumerate(rows):
                yield f"{path}:{line}", row
                line = rows.line_num + 1
                if number % _REPORT_EVERY == 0:
                    progress(raw.tell(), total)
            progress(total, total)
    except (OSError, EOFError) as error:
        raise TableError(str(path), f"{error}; expected a CSV file") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise TableError(f"{path}:{line}", f"{error}; expected a row of CSV in UTF-8") from error


def number(row: dict[str, str], column: str) -> float:
    """A number in a row.

    Raises:
      RowError: there is none.
    """
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RowError(f"{column} is {row[column]!r}, expected a number")
    return value


def count(row: dict[str, str], column: str) -> int:
    """A whole number, 0 or more, in a row.

    Raises:
      RowError: there is none.
    """
    value = number(row, column)
    if value < 0 or value != int(value):
        raise RowError(f"{column} is {row[column]!r}, expected a whole number, 0 or more")
    return int(value)


def _text(path: Path, raw: IO[bytes]) -> io.TextIOWrapper:
    content = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
    return io.TextIOWrapper(content, encoding="utf-8-sig", newline="")


def _require(path: Path, columns: Sequence[str], found: Sequence[str] | None) -> None:
    missing = [column for column in columns if column not in (found or ())]
    if missing:
        has = ", ".join(found) if found else "nothing"
        problem = f"found columns {has}; expected {', '.join(columns)} among them"
        raise TableError(f"{path}:1", problem, missing)
