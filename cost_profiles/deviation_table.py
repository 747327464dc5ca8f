"""Errors of predictions as tables on a terminal."""

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.table import Table

from cost_profiles.deviation import KindErrors
from cost_profiles.padding import PaddedCosts
from cost_profiles.table import format_seconds

_LARGE_ERROR = 0.25
_NAMES = {"sums": "sums of a step", "padded": "padded work"}


def errors_table(rows: Iterable[KindErrors]) -> Table:
    """One line for each kind of work and what predicts it; large errors are red."""
    table = Table("work", "predicted from", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("points", "bias", "median", "P90", "worst"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("worst at")
    for row in rows:
        table.add_row(
            row.kind,
            _NAMES[row.model],
            str(row.count),
            f"{row.bias:+.1%}",
            *(f"{error:.1%}" for error in (row.median, row.p90, row.worst)),
            row.worst_of,
            style="red" if row.p90 > _LARGE_ERROR else None,
        )
    return table


def padded_table(padded: PaddedCosts) -> Table:
    """The terms of padded work."""
    table = Table("term of padded work", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("value", justify="right", no_wrap=True)
    for bucket, seconds in zip(padded.padding.token_buckets, padded.dense_s, strict=True):
        table.add_row(f"step of {bucket} rows", format_seconds(seconds))
    for name in padded.__slots__[2:]:
        table.add_row(name, format_seconds(getattr(padded, name)))
    return table
