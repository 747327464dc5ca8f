"""Crawls of Stream2LLM (MLSys 2026, arXiv 2604.16395): a folder with one `query_<id>.csv` a query.

Format and data: github.com/rajveerb/stream2llm and its data set (MIT). A row is a search (`tavily_search`) or a page
(`page_scrape`); its content is there at its `endTime`, in seconds since the crawl began.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from workloads.readers.arrivals import made_up_arrivals, made_up_note
from workloads.readers.found import (
    Bad,
    Draft,
    Found,
    Progress,
    ReadOptions,
    RowError,
    Skipped,
    Source,
    TextEvent,
    TextPiece,
)
from workloads.readers.table import TableError, number, read_table
from workloads.trace import TraceError

FILES = "query_*.csv"
_SEARCH, _PAGE = "tavily_search", "page_scrape"
_COLUMNS = ("type", "startTime", "endTime", "query", "content")
_SOURCE = "crawls of Stream2LLM (github.com/rajveerb/stream2llm, MIT)"


def open_crawler(folder: Path, options: ReadOptions, progress: Progress) -> Source:
    """Reads a folder, in order of the queries' ids.

    Raises:
      TraceError: there is no such file in it.
    """
    files = sorted(folder.glob(FILES), key=_natural)
    if not files:
        raise TraceError(f"{folder}: found no {FILES}; expected a folder with one such file a query")
    return Source("crawler", _SOURCE, (made_up_note(options),), _read(files, options, progress))


def _read(files: list[Path], options: ReadOptions, progress: Progress) -> Iterator[Found]:
    arrivals_s = made_up_arrivals(options)
    arrival_s = next(arrivals_s)
    for done, path in enumerate(files):
        progress(done, len(files))
        found = _query(path, arrival_s, options)
        if isinstance(found, Draft):
            arrival_s = next(arrivals_s)
        yield found
    progress(len(files), len(files))


@dataclass(slots=True)
class _Row:
    """A row, in seconds since the crawl began."""

    kind: str
    start_s: float
    end_s: float
    query: str
    content: str


def _query(path: Path, arrival_s: float, options: ReadOptions) -> Found:
    rows = []
    try:
        for where, row in read_table(path, _COLUMNS):
            try:
                rows.append(_row(row))
            except RowError as error:
                return Bad(where, str(error))
    except TableError as error:
        if error.missing == ("content",):
            return Skipped("queries without a column content (nothing was fetched)", str(path))
        return Bad(error.where, error.problem)
    rows.sort(key=lambda row: row.end_s)
    if all(row.kind != _PAGE for row in rows):
        return Skipped("queries without a page", str(path))
    question = next((row.query for row in rows if row.kind == _SEARCH and row.query), None)
    if question is None:
        return Bad(str(path), f"has no row of type {_SEARCH} with a query, expected one")
    return Draft(_events(path.stem, question, rows, arrival_s, options))


def _events(
    session: str, question: str, rows: list[_Row], arrival_s: float, options: ReadOptions
) -> tuple[TextEvent, ...]:
    """The query arrives, the search ends and what stands before the pages can be sent, then page by page."""
    started_s = min(row.start_s for row in rows)
    opened = TextEvent(arrival_s, session, "open", max_tokens=options.output_tokens(), note=question)
    events = [opened]
    last = max(index for index, row in enumerate(rows) if row.kind == _PAGE)
    for index, row in enumerate(rows[: last + 1]):
        pieces = [TextPiece("template", options.prompt.head)] if index == 0 else []
        if row.kind == _PAGE:
            pieces.append(_page(row.content))
        if index == last:
            pieces.append(TextPiece(f"question of {session}", options.prompt.tail(question)))
        if pieces:
            events.append(TextEvent(arrival_s + row.end_s - started_s, session, "append", tuple(pieces)))
    return (*events, TextEvent(events[-1].t_s, session, "finish"))


def _page(content: str) -> TextPiece:
    text = content + "\n"
    return TextPiece(f"page {hashlib.sha1(text.encode(errors='replace')).hexdigest()[:12]}", text)


def _row(row: dict[str, str]) -> _Row:
    kind, start_s, end_s = row["type"], number(row, "startTime"), number(row, "endTime")
    if kind not in (_SEARCH, _PAGE):
        raise RowError(f"type is {kind!r}, expected {_SEARCH} or {_PAGE}")
    if end_s < start_s:
        raise RowError(f"endTime is {end_s:g}, expected {start_s:g} (startTime) or more")
    return _Row(kind, start_s, end_s, row["query"].strip(), row["content"])


def _natural(path: Path) -> tuple[int, str]:
    match = re.search(r"(\d+)\.csv$", path.name)
    return (int(match[1]) if match else -1, path.name)
