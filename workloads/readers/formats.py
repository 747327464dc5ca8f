"""Formats by name."""

import json
from collections.abc import Mapping
from pathlib import Path

from workloads.readers import anns, azure, burstgpt, crawler
from workloads.readers.found import Reader
from workloads.readers.internal import open_internal
from workloads.readers.mooncake import open_mooncake
from workloads.trace import TraceError
from workloads.trace.files import open_lines

AUTO = "auto"
FORMATS: Mapping[str, Reader] = {
    "anns": anns.open_anns,
    "azure": azure.open_azure,
    "burstgpt": burstgpt.open_burstgpt,
    "crawler": crawler.open_crawler,
    "mooncake": open_mooncake,
    "s2l": open_internal,
}
_LONGEST_LINE = 1 << 20


def detect(path: Path) -> str:
    """The format of a file or folder, by what is in it.

    Raises:
      TraceError: it is none of them, or cannot be read.
    """
    if path.is_dir():
        for name, files in (("crawler", crawler.FILES), ("anns", anns.MAP_FILES)):
            if next(path.glob(files), None) is not None:
                return name
        raise TraceError(f"{path}: found neither {crawler.FILES} nor {anns.MAP_FILES}; name the --format")
    try:
        with open_lines(path) as file:
            line = file.readline(_LONGEST_LINE).decode("utf-8-sig", "replace").strip()
    except OSError as error:
        raise TraceError(f"{path}: {error}; expected a trace") from error
    fields = {field.strip('" ') for field in line.split(",")}
    for name, columns in (("azure", azure.COLUMNS), ("burstgpt", burstgpt.COLUMNS)):
        if fields.issuperset(columns):
            return name
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        value = None
    if isinstance(value, dict) and "s2l_trace" in value:
        return "s2l"
    if isinstance(value, dict) and "hash_ids" in value:
        return "mooncake"
    raise TraceError(f"{path}: begins with {line[:60]!r}, which is none of {', '.join(FORMATS)}; name the --format")
