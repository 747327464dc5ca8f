"""Azure's LLM inference traces of 2023 and 2024: arrival and sizes, no content.

Format and data: github.com/Azure/AzurePublicDataset (CC-BY), described in AzureLLMInferenceDataset2023.md and
AzureLLMInferenceDataset2024.md; both years have the same columns, and times with and without a time zone.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from workloads.readers.chunks import Requests
from workloads.readers.found import Bad, Draft, Found, Progress, ReadOptions, RowError, Skipped, Source
from workloads.readers.table import count, read_table

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_SOURCE = "Azure LLM inference trace (github.com/Azure/AzurePublicDataset, CC-BY)"


def open_azure(path: Path, options: ReadOptions, progress: Progress) -> Source:
    """Reads a CSV file of either year.

    Raises:
      TraceError: the file cannot be read, or lacks columns.
    """
    requests = Requests(options, "all tokens")
    return Source("azure", _SOURCE, requests.made_up, _read(path, options, requests, progress))


def _read(path: Path, options: ReadOptions, requests: Requests, progress: Progress) -> Iterator[Found]:
    first: datetime | None = None
    now_s = 0.0
    for number, (where, row) in enumerate(read_table(path, COLUMNS, progress), start=1):
        try:
            at = _time(row["TIMESTAMP"])
            length, output = count(row, "ContextTokens"), count(row, "GeneratedTokens")
            first = first or at
            if (at - first).total_seconds() < now_s:
                raise RowError(
                    f"TIMESTAMP is {row['TIMESTAMP']}, which is before the row above (rows in order of time)"
                )
        except RowError as error:
            yield Bad(where, str(error))
            continue
        now_s = (at - first).total_seconds()
        if not length or not output:
            yield Skipped(f"requests without {'input' if not length else 'output'}", where)
        else:
            yield Draft(requests.session(f"z{number:07d}", now_s, options.output_tokens(output), length))


def _time(value: str) -> datetime:
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        raise RowError(f"TIMESTAMP is {value!r}, expected a time such as 2023-11-16 18:15:46.6805900") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
