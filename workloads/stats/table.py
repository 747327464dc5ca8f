"""Figures of a trace for the terminal."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from workloads.stats.published import Comparison
from workloads.stats.stats import QUANTITIES, STATISTICS, TraceStats

_MISSING = "–"


def lines(stats: TraceStats) -> list[str]:
    """What is said in sentences."""
    rate, burstiness = stats.arrivals_per_s, stats.burstiness
    header = stats.header
    said = [
        f"{header.name}: {stats.sessions:,} sessions, {stats.tokens:,} tokens of context ({stats.counted})",
        *([f"source: {header.source}"] if header.source else []),
        *([f"made up: {header.made_up}"] if header.made_up else []),
    ]
    if rate is not None and burstiness is not None:
        said.append(
            f"arrivals: {rate:.3g} a second, coefficient of variation of the gaps {burstiness:.2f} (Poisson: 1)"
        )
    content = "" if stats.shared_content is None else f", {stats.shared_content:.1%} in parts that an earlier one has"
    said.append(f"shared: {stats.shared_prefix:.1%} of the tokens in beginnings that an earlier session has{content}")
    if stats.kept_by_version:
        kept = ", ".join(f"{share:.1%}" for share in stats.kept_by_version)
        said.append(f"kept of a version by the next one, on average: {kept} (of the first, of the second, ...)")
    return said


def quantities_table(stats: TraceStats) -> Table:
    """All quantities that the trace has, one a column."""
    summaries = {name: summary for name in QUANTITIES if (summary := stats.summary(name)) is not None}
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for name in summaries:
        quantity = QUANTITIES[name]
        unit = f" [{quantity.unit}]" if quantity.unit else ""
        table.add_column(f"{quantity.label}{unit}".replace("[", "\\["), justify="right")
    for statistic in STATISTICS:
        cells = (format_figure(summary[statistic]) for summary in summaries.values())
        table.add_row(_statistic(statistic), *cells)
    return table


def published_table(rows: Sequence[Comparison]) -> Table:
    """The trace beside the published figures."""
    table = Table(header_style="bold", box=SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for name in ("published", "trace", "error"):
        table.add_column(name, justify="right")
    for row in rows:
        label = f"{QUANTITIES[row.quantity].label}, {_statistic(row.statistic)}"
        found = _MISSING if row.found is None else format_figure(row.found)
        error = _MISSING if row.error is None else f"{row.error:+.1%}"
        table.add_row(label, format_figure(row.published), found, error)
    return table


def _statistic(name: str) -> str:
    return name.upper() if name.startswith("p") else name


def format_figure(value: float) -> str:
    """The digits that matter, without an exponent."""
    if value >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.4g}" if value >= 1 else f"{value:.3g}" if value >= 0.001 else f"{value:.2g}"
