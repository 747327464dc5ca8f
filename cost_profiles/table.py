"""Profiles as tables on a terminal."""

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.table import Table

from cost_profiles.comparison import Comparison, crossovers
from cost_profiles.profile import PART_TERMS, Profile

_KV_SHARE = 0.8  # what `s2l replay` and `s2l plan` take unless told otherwise
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_LARGE_ERROR = 0.25


def format_seconds(seconds: float) -> str:
    """Three digits that matter, in the largest unit that leaves something before the point."""
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= 0.9995 * size), _UNITS[-1])
    value = seconds / size
    digits = 0 if value >= 99.95 or not seconds else 1 if value >= 9.995 else 2
    return f"{value:,.{digits}f} {unit}"


def list_table(profiles: Iterable[Profile]) -> Table:
    """One line a profile."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("name", no_wrap=True)
    for column in ("hardware", "model", "provenance"):
        table.add_column(column)
    for profile in profiles:
        model = profile.model if profile.dtype == "bfloat16" else f"{profile.model} ({profile.dtype})"
        table.add_row(profile.name, profile.hardware.partition(",")[0], model, provenance(profile))
    return table


def provenance(profile: Profile) -> str:
    """Each provenance once, with the parts that have it if there are several."""
    parts: dict[str, list[str]] = {}
    for name, part in profile.parts.items():
        parts.setdefault(part.provenance, []).append(name)
    if len(parts) == 1:
        return next(iter(parts))
    return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in parts.items())


def memory_lines(profile: Profile) -> list[str]:
    """How much memory there is, and how many tokens the pools hold."""
    memory = profile.memory
    device, host = memory.pool_blocks(_KV_SHARE), memory.host_blocks()
    return [
        f"memory: {memory.device_bytes / 1e9:,.0f} GB on {profile.devices} "
        f"{'device' if profile.devices == 1 else 'devices'}, of which weights {memory.weights_bytes / 1e9:,.1f} GB; "
        f"{memory.host_bytes / 1e9:,.0f} GB on the host for KV",
        f"KV: {memory.block_bytes / 2**20:.3g} MiB a block of {memory.block_tokens} tokens; pools: "
        f"{device:,} blocks on the device ({device * memory.block_tokens:,} tokens, {_KV_SHARE:.0%} of what weights "
        f"leave), {host:,} on the host ({host * memory.block_tokens:,} tokens)",
    ]


def terms_table(profile: Profile) -> Table:
    """The terms of each part, and how well they fit if they were fitted."""
    fitted = any(part.r_squared is not None or part.worst_error is not None for part in profile.parts.values())
    table = Table("part", "term", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("provenance")
    if fitted:
        table.add_column("R²", justify="right")
        table.add_column("worst error", justify="right")
    for name, terms in PART_TERMS.items():
        part = profile.parts[name]
        quality = [_optional(part.r_squared, ".4f"), _optional(part.worst_error, ".1%")] if fitted else []
        values = [format_seconds(getattr(profile.costs, term)) for term in terms]
        table.add_row(name, "\n".join(terms), "\n".join(values), part.provenance, *quality)
    return table


def source_lines(profile: Profile) -> list[str]:
    """Each source once, behind the parts that have it."""
    parts: dict[str, list[str]] = {}
    for name, part in profile.parts.items():
        parts.setdefault(part.source, []).append(name)
    return [f"{', '.join(names)}: {source}" for source, names in parts.items()]


def comparison_table(comparison: Comparison) -> Table:
    """Recomputing against swapping; the cheaper one of each line is bold, crossovers are marked."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in ("tokens", "recompute", "(shared)", "swap out", "swap in", "out + in"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("cheaper")
    marks = [(tokens, f"← {tokens:,}") for tokens in crossovers(comparison.own)]
    marks += [(tokens, f"← {tokens:,} shared") for tokens in crossovers(comparison.shared)]
    before = 0
    for row in comparison.rows:
        swap_wins = row.swap_s <= row.recompute_s
        crossed = (text for tokens, text in marks if before < tokens <= row.tokens)
        times = [format_seconds(row.recompute_s), format_seconds(row.swap_s)]
        times[swap_wins] = f"[bold]{times[swap_wins]}[/bold]"
        rest = (format_seconds(seconds) for seconds in (row.shared_s, row.swap_out_s, row.swap_in_s))
        cheaper = " ".join(["swap" if swap_wins else "recompute", *crossed])
        table.add_row(f"{row.tokens:,}", times[0], *rest, times[1], cheaper)
        before = row.tokens
    return table


def residuals_table(profile: Profile) -> Table:
    """What a calibration was fitted to, and how far it stays from it; large errors are red."""
    table = Table("fitted to", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("expected", "predicted", "error"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in profile.residuals:
        table.add_row(
            row.what,
            format_seconds(row.expected_s),
            format_seconds(row.predicted_s),
            f"{row.relative_error:+.0%}",
            style="red" if abs(row.relative_error) > _LARGE_ERROR else None,
        )
    return table


def _optional(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
