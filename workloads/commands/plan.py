"""`s2l plan`: the least hardware that meets an objective."""

import json
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from s2l_jax.core.errors import InvalidArgument

if TYPE_CHECKING:
    from cost_profiles.profile import Profile
    from workloads.sweep.planner import Answer

_EXIT_NO_ANSWER = 3


@click.command(
    epilog="""\b
Examples:
  s2l plan --workload crawler --qps 40 --ttft P99=2.0 --profile h200-tp2-llama3.1-8b --profile v6e-8-llama3.1-8b
  s2l plan --workload anns --qps 10 --ttft P95=1.0 --max-tokens 64 --tpot P95=0.05 --price h200-tp2-llama3.1-8b=8.0"""
)
@click.option("--profile", "profiles", multiple=True, help="Name or file, several times to compare.  [default: all]")
@click.option("--workload", default="crawler", show_default=True, help="crawler, anns, or the path of a trace.")
@click.option("--qps", type=float, required=True, help="Questions per second, of all replicas together.")
@click.option(
    "--ttft", "ttft", multiple=True, metavar="P99=S", help="Most seconds from the last chunk to the first token."
)
@click.option("--ttft-open", "ttft_open", multiple=True, metavar="P99=S", help="The same from the question.")
@click.option("--tpot", multiple=True, metavar="P95=S", help="Most seconds per output token after the first.")
@click.option("--max-tokens", type=int, default=1, show_default=True, help="Output tokens of a session.")
@click.option("--mode", default="stream", show_default=True, help="stream or wait.")
@click.option("--policy", default="s2l", show_default=True, help="Scheduling policy.")
@click.option("--delay", type=float, default=1.0, show_default=True, help="Multiplies the retrieval's times.")
@click.option("--token-scale", type=float, default=1.0, show_default=True, help="Multiplies token counts.")
@click.option("--kv-share", type=float, default=0.8, show_default=True, help="KV's share of the memory.")
@click.option("--token-budget", type=int, default=2048, show_default=True, help="Tokens of a step.")
@click.option("--sessions", type=int, default=1000, show_default=True, help="Simulated for one replica, at least.")
@click.option("--most", type=click.IntRange(min=1), default=1024, show_default=True, help="Replicas at most.")
@click.option("--price", "prices", multiple=True, metavar="PROFILE=PRICE", help="Of one replica for an hour.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@click.option("--json", "as_json", is_flag=True, help="Print the answers as JSON, and nothing else, on stdout.")
def plan(
    profiles: tuple[str, ...],
    ttft: tuple[str, ...],
    ttft_open: tuple[str, ...],
    tpot: tuple[str, ...],
    most: int,
    prices: tuple[str, ...],
    as_json: bool,
    **load: Any,
) -> None:
    """Find out how many replicas a load needs, on each kind of hardware.

    Simulates one replica at its share of the load, with more and more replicas until all objectives are met, then
    narrows it down. Exits with 3 if no hardware can meet them.
    """
    from cost_profiles.catalog import find_profile, stored_names
    from workloads.sweep.cell import Cell
    from workloads.sweep.planner import Answer, Limit, least_replicas

    limits = [Limit.parse("ttft_final_s", text) for text in ttft]
    limits += [Limit.parse("ttft_open_s", text) for text in ttft_open]
    limits += [Limit.parse("tpot_s", text) for text in tpot]
    found = {name: find_profile(name) for name in profiles or _comparable(stored_names())}
    price_of = _prices(prices, set(found))
    console = Console(stderr=True)
    answers: dict[str, Answer | str] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("plan", total=len(found))
        for name in found:
            try:
                answers[name] = least_replicas(
                    Cell(grid="plan", profile=name, **load),
                    limits,
                    most,
                    lambda count, name=name: progress.update(task, description=f"{name} x {count}"),  # type: ignore[misc]
                )
            except InvalidArgument as error:
                if len(found) == 1:
                    raise
                answers[name] = str(error)
            progress.advance(task)
    rows = [_row(found[name], answers[name], price_of.get(name)) for name in found]
    rows.sort(key=lambda row: (row["replicas"] == 0, row["price_per_hour"] or 0, row["devices"]))
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        out = Console()
        if any(row["replicas"] for row in rows):
            out.print(_table(rows))
        for row in rows:
            if not row["replicas"]:
                out.print(f"{row['profile']}: {row['why_not']}", highlight=False, soft_wrap=True)
    if not any(row["replicas"] for row in rows):
        raise SystemExit(_EXIT_NO_ANSWER)


def _comparable(names: list[str]) -> list[str]:
    """Stored profiles of the one model that most are of, so that what is compared does the same."""
    return [name for name in names if name.endswith("llama3.1-8b")]


def _prices(texts: tuple[str, ...], known: set[str]) -> dict[str, float]:
    prices = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            prices[name] = float(value)
        except ValueError:
            raise InvalidArgument(f"--price is {text!r}, expected PROFILE=PRICE") from None
        if name not in known:
            raise InvalidArgument(f"--price names {name!r}, which is not one of {', '.join(sorted(known))}")
    return prices


def _row(profile: "Profile", answer: "Answer | str", price: float | None) -> dict[str, Any]:
    row: dict[str, Any] = {"profile": profile.name, "hardware": profile.hardware, "replicas": 0, "devices": 0}
    row |= {"price_per_hour": None, "why_not": "", "ttft_final_s": {}, "tpot_s": {}}
    if isinstance(answer, str):
        return row | {"why_not": answer}
    if answer.result is None:
        most = max(answer.tried)
        if failed := answer.tried[most].failed:
            return row | {"why_not": f"{failed} sessions fail, being too long for it"}
        return row | {"why_not": f"{most} replicas miss {answer.missed}"}
    result, count = answer.result, answer.replicas
    return row | {
        "replicas": count,
        "devices": count * profile.devices,
        "price_per_hour": None if price is None else count * price,
        "ttft_final_s": result.ttft_final_s,
        "ttft_open_s": result.ttft_open_s,
        "tpot_s": result.tpot_s,
        "busy_share": result.busy_share,
        "kv_peak_share": result.kv_peak_share,
        "kv_peak_gib": result.kv_peak_share * result.kv_blocks * profile.memory.block_bytes / 2**30,
        "tried": sorted(answer.tried),
    }


def _table(rows: list[dict[str, Any]]) -> Table:
    """Those that meet the objectives, cheapest first; without prices, with the fewest devices first."""
    from workloads.report.table import format_seconds

    has_prices = any(row["price_per_hour"] is not None for row in rows)
    columns = ["replicas", "chips", *(["price/h"] if has_prices else []), "TTFT P50", "P95", "P99", "busy", "KV, GiB"]
    table = Table(header_style="bold", box=None)
    table.add_column("profile", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        if not row["replicas"]:
            continue
        cells = [str(row["replicas"]), str(row["devices"])]
        if has_prices:
            cells.append("–" if row["price_per_hour"] is None else f"{row['price_per_hour']:.2f}")
        cells += [format_seconds(row["ttft_final_s"][name]) for name in ("p50", "p95", "p99")]
        table.add_row(row["profile"], *cells, f"{row['busy_share']:.0%}", f"{row['kv_peak_gib']:.0f}")
    return table
