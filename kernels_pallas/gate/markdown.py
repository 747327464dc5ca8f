"""The report as tables in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kernels_pallas.gate.row import INTERPRETER, Row

_BEGIN, _END = "<!-- tables: written by `make kernels` -->", "<!-- end of tables -->"
_PACKAGES = ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin", "nvidia-cuda-nvcc", "nvidia-nvvm")


def write_tables(path: Path, rows: Sequence[Row]) -> None:
    """Puts the tables between the two marks of a page.

    Raises:
      ValueError: the page does not have them.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"{path} must have the lines {_BEGIN!r} and {_END!r}")
    path.write_text(f"{before}{_BEGIN}\n\n{tables(rows)}\n\n{_END}{after}", encoding="utf-8")


def tables(rows: Sequence[Row]) -> str:
    """Versions, and a table for each platform."""
    tests = [row for row in rows if row.target == INTERPRETER]
    tpu = [row for row in rows if not row.target.startswith("sm_") and row.target != INTERPRETER]
    gpu = [row for row in rows if row.target.startswith("sm_")]
    parts = ["Versions: " + ", ".join(f"{name} {found}" for name, found in versions().items()) + "."]
    if tests:
        lines = ([*row.kernel.split(": ", 1), "yes" if row.ok else "**no**"] for row in tests)
        parts.append(_table(["tests, in interpret mode", "", "good"], lines))
    if tpu:
        columns = ["kernel", "target", "compiles", "s", "temp MiB", "VMEM KiB", "spills", "bundles per KV token", "MXU"]
        parts.append(_table(columns, ([*_common(row), *_tpu(row)] for row in tpu)))
    if gpu:
        columns = ["kernel", "target", "compiles", "s", "temp MiB", "registers", "spills", "shared KiB", "occupancy"]
        parts.append(_table(columns, ([*_common(row), *_gpu(row)] for row in gpu)))
    return "\n\n".join(parts)


def versions() -> Mapping[str, str]:
    """Of the compilers, as far as they are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _common(row: Row) -> list[str]:
    ok = "yes" if row.ok else f"**no**: {(row.error or '').splitlines()[0][:120]}"
    return [row.kernel, row.target, ok, _number(row.compile_s, "{:.1f}"), _scaled(row.temp_bytes, 2**20, "{:.2f}")]


def _tpu(row: Row) -> list[str]:
    occupancy = "" if row.mxu_occupancy is None else f"{row.mxu_occupancy:.0%}"
    vmem = _scaled(row.vmem_bytes, 2**10, "{:.0f}")
    return [vmem, _number(row.spill_bytes, "{}"), _number(row.bundles_per_kv_token, "{:.2f}"), occupancy]


def _gpu(row: Row) -> list[str]:
    shared = _scaled(row.smem_bytes, 2**10, "{:.0f}")
    occupancy = _number(row.occupancy, "{:.0%}")
    return [_number(row.registers, "{}"), _number(row.spill_bytes, "{}"), shared, occupancy]


def _number(value: float | None, pattern: str) -> str:
    return "" if value is None else pattern.format(value)


def _scaled(value: int | None, unit: int, pattern: str) -> str:
    return "" if value is None else pattern.format(value / unit)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
