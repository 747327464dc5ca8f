"""Vector searches of Stream2LLM (MLSys 2026, arXiv 2604.16395): result lists that are replaced by better ones.

Format and data: github.com/rajveerb/stream2llm and its data set (MIT). A folder holds `query_trace_map_*.json` (queries
and their trace files), the trace files (in `res/` or beside it; a row is a list of documents and how long it took to
find) and the documents' texts in `retrieved_corpus_content.part.*.json`, which must fit into memory.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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

MAP_FILES = "query_trace_map*.json"
_CORPUS_FILES = "retrieved_corpus_content.part.*.json"
_TRACES = "res"
_COLUMNS = ("StartTime_us", "EndTime_us", "PipelinePool")
_SOURCE = "vector searches of Stream2LLM (github.com/rajveerb/stream2llm, MIT)"

_Versions = list[tuple[float, list[str]]]
"""`(seconds since the query, documents)`."""


def open_anns(folder: Path, options: ReadOptions, progress: Progress) -> Source:
    """Reads a folder, in order of the queries' ids.

    Raises:
      TraceError: a file is missing or is not what it should be.
    """
    maps = sorted(folder.glob(MAP_FILES))
    if not maps:
        raise TraceError(f"{folder}: found no {MAP_FILES}; expected it beside {_CORPUS_FILES}")
    queries = sorted(_load(maps[0]).items(), key=lambda item: _natural(item[0]))
    corpus = _corpus(folder)
    found = _read(folder, maps[0], queries, corpus, options, progress)
    return Source("anns", _SOURCE, (made_up_note(options),), found)


def _read(
    folder: Path,
    map_path: Path,
    queries: list[tuple[str, Any]],
    corpus: dict[str, str],
    options: ReadOptions,
    progress: Progress,
) -> Iterator[Found]:
    arrivals_s = made_up_arrivals(options)
    arrival_s = next(arrivals_s)
    for done, (query_id, query) in enumerate(queries):
        progress(done, len(queries))
        if not (isinstance(query, dict) and all(isinstance(query.get(key), str) for key in ("query", "trace_file"))):
            yield Bad(f"{map_path}: query {query_id!r}", f'is {query!r}, expected {{"query": ..., "trace_file": ...}}')
            continue
        paths = [folder / place / query["trace_file"] for place in (_TRACES, ".")]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            yield Skipped("queries whose trace file is not there", f"{paths[0]}")
            continue
        versions = _versions(path)
        if isinstance(versions, Bad):
            yield versions
        elif not versions:
            yield Skipped("queries without a result", str(path))
        else:
            missing = {document for _, documents in versions for document in documents if document not in corpus}
            yield from (Skipped("documents without a text", f"{path}: document {one}") for one in sorted(missing))
            yield Draft(_events(f"query_{query_id}", query["query"], versions, corpus, arrival_s, options))
            arrival_s = next(arrivals_s)
    progress(len(queries), len(queries))


def _events(
    session: str, question: str, versions: _Versions, corpus: dict[str, str], arrival_s: float, options: ReadOptions
) -> tuple[TextEvent, ...]:
    head = TextPiece("template", options.prompt.head)
    tail = TextPiece(f"question of {session}", options.prompt.tail(question))
    events = [TextEvent(arrival_s, session, "open", max_tokens=options.output_tokens(), note=question)]
    for at_s, documents in versions:
        texts = [TextPiece(f"document {one}", corpus[one] + "\n") for one in documents if one in corpus]
        events.append(TextEvent(arrival_s + at_s, session, "update", (head, *texts, tail)))
    return (*events, TextEvent(events[-1].t_s, session, "finish"))


def _versions(path: Path) -> _Versions | Bad:
    """The lists of a trace file; each comes after the time that its row took."""
    versions: _Versions = []
    now_us = 0.0
    try:
        for where, row in read_table(path, _COLUMNS):
            try:
                start_us, end_us = number(row, "StartTime_us"), number(row, "EndTime_us")
                if end_us < start_us:
                    raise RowError(f"EndTime_us is {end_us:g}, expected {start_us:g} (StartTime_us) or more")
                now_us += end_us - start_us
                versions.append((now_us / 1e6, _pool(row["PipelinePool"])))
            except RowError as error:
                return Bad(where, str(error))
    except TableError as error:
        return Bad(error.where, error.problem)
    return versions


def _pool(value: str) -> list[str]:
    documents = [document.strip() for document in value.strip().strip('()"').split(",")]
    documents = [document for document in documents if document]
    if not value.strip().startswith("(") or not all(document.lstrip("-").isdigit() for document in documents):
        raise RowError(f"PipelinePool is {value[:60]!r}, expected documents such as (17, 4, 23)")
    return documents


def _corpus(folder: Path) -> dict[str, str]:
    files = sorted(folder.glob(_CORPUS_FILES))
    if not files:
        raise TraceError(f"{folder}: found no {_CORPUS_FILES}; expected the documents' texts there")
    corpus: dict[str, str] = {}
    for path in files:
        texts = _load(path)
        wrong = next((key for key, text in texts.items() if not isinstance(text, str)), None)
        if wrong is not None:
            raise TraceError(f"{path}: document {wrong!r} is {texts[wrong]!r:.60}, expected a text")
        corpus |= texts
    return corpus


def _load(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise TraceError(f"{path}: {error}; expected a JSON object") from error
    if not isinstance(value, dict):
        raise TraceError(f"{path}: is a {type(value).__name__}, expected a JSON object")
    return value


def _natural(query_id: str) -> tuple[int, str]:
    return (int(query_id) if query_id.isdigit() else -1, query_id)
