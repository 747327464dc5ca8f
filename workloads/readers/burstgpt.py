"""BurstGPT: requests to ChatGPT and GPT-4 with arrival and sizes, no content.

Format and data: github.com/HPMLL/BurstGPT (CC-BY-4.0), releases 1 and 2; arXiv 2401.17644.
"""

from collections.abc import Iterator
from pathlib import Path

from workloads.readers.chunks import Requests
from workloads.readers.found import Bad, Draft, Found, Progress, ReadOptions, RowError, Skipped, Source
from workloads.readers.table import count, number, read_table

COLUMNS = ("Timestamp", "Model", "Request tokens", "Response tokens", "Log Type")
_SOURCE = "BurstGPT (github.com/HPMLL/BurstGPT, CC-BY-4.0)"


def open_burstgpt(path: Path, options: ReadOptions, progress: Progress) -> Source:
    """Reads a CSV file of it.

    Raises:
      TraceError: the file cannot be read, or lacks columns.
    """
    requests = Requests(options, "all tokens")
    return Source("burstgpt", _SOURCE, requests.made_up, _read(path, options, requests, progress))


def _read(path: Path, options: ReadOptions, requests: Requests, progress: Progress) -> Iterator[Found]:
    first_s: float | None = None
    now_s = 0.0
    for row_number, (where, row) in enumerate(read_table(path, COLUMNS, progress), start=1):
        try:
            at_s = number(row, "Timestamp")
            length, output = count(row, "Request tokens"), count(row, "Response tokens")
            first_s = at_s if first_s is None else first_s
            if at_s - first_s < now_s:
                raise RowError(f"Timestamp is {at_s:g}, expected {first_s + now_s:g} or more (rows in order of time)")
        except RowError as error:
            yield Bad(where, str(error))
            continue
        now_s = at_s - first_s
        if not output:
            yield Skipped("requests that failed (no response tokens)", where)
        elif not length:
            yield Skipped("requests without input", where)
        else:
            events = requests.session(f"b{row_number:07d}", now_s, options.output_tokens(output), length)
            yield Draft(events)
