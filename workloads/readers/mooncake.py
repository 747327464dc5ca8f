"""Mooncake's traces: one request a line, with the identities of its 512-token blocks.

Format and data: github.com/kvcache-ai/Mooncake, folder FAST25-release/traces (Apache-2.0).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workloads.readers.chunks import Requests
from workloads.readers.found import Bad, Draft, Found, Progress, ReadOptions, RowError, Skipped, Source
from workloads.trace import TraceError
from workloads.trace.files import open_lines

BLOCK_TOKENS = 512
_SOURCE = "Mooncake (github.com/kvcache-ai/Mooncake, Apache-2.0)"
_REPORT_EVERY = 500  # lines


def open_mooncake(path: Path, options: ReadOptions, progress: Progress) -> Source:
    """Reads a trace. Equal `hash_ids` become parts of equal names, so what requests share stays shared.

    Raises:
      TraceError: the file cannot be read.
    """
    requests = Requests(options, "tokens (equal where blocks are)")
    found = _read(path, options, requests, progress)
    return Source("mooncake", _SOURCE, requests.made_up, found, {"block_tokens": BLOCK_TOKENS})


def _read(path: Path, options: ReadOptions, requests: Requests, progress: Progress) -> Iterator[Found]:
    done, total = 0, path.stat().st_size if path.suffix != ".gz" else 0
    now_s = 0.0
    try:
        with open_lines(path) as file:
            for number, line in enumerate(file, start=1):
                done += len(line)
                if number % _REPORT_EVERY == 0:
                    progress(done, total)
                if not line.strip():
                    continue
                where = f"{path}:{number}"
                try:
                    at_s, length, output, blocks = _parse(line, now_s)
                except RowError as error:
                    yield Bad(where, str(error))
                    continue
                now_s = at_s
                if not length or not output:
                    yield Skipped(f"requests without {'input' if not length else 'output'}", where)
                    continue
                sizes = [BLOCK_TOKENS] * (len(blocks) - 1) + [length - BLOCK_TOKENS * (len(blocks) - 1)]
                parts = [(str(block), size) for block, size in zip(blocks, sizes, strict=True)]
                yield Draft(requests.session(f"m{number:06d}", at_s, options.output_tokens(output), parts))
        progress(done, total)
    except (OSError, EOFError) as error:
        raise TraceError(f"{path}: {error}; expected Mooncake's JSON lines") from error


def _parse(line: bytes, now_s: float) -> tuple[float, int, int, list[int]]:
    """`(arrival in s, input tokens, output tokens, block ids)`."""
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RowError(f"not JSON ({error}), expected one request a line") from None
    if not isinstance(row, dict):
        raise RowError(f"is a {type(row).__name__}, expected a JSON object")
    at_s = _whole(row, "timestamp") / 1000.0
    if at_s < now_s:
        raise RowError(f"timestamp is {row['timestamp']}, expected {now_s * 1000:.0f} or more (rows in order of time)")
    length, output = _whole(row, "input_length"), _whole(row, "output_length")
    blocks = row.get("hash_ids")
    if not isinstance(blocks, list) or not all(type(block) is int for block in blocks):
        raise RowError(f"hash_ids is {blocks!r}, expected a list of integers")
    expected = -(-length // BLOCK_TOKENS)
    if len(blocks) != expected:
        raise RowError(f"{len(blocks)} hash_ids, expected {expected} for {length} tokens in blocks of {BLOCK_TOKENS}")
    return at_s, length, output, blocks


def _whole(row: dict[str, Any], key: str) -> int:
    value = row.get(key)
    if type(value) is not int or value < 0:
        raise RowError(f"{key} is {value!r}, expected a whole number, 0 or more")
    return value
