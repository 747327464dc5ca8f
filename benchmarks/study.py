"""Turns the results of `s2l sweep docs/study/study.toml` into the pages of docs/study.

    python benchmarks/study.py out/study docs/study
    python benchmarks/study.py out/scale docs/study --name scale

Writes results.md (tables, findings), a picture for each grid, and results.json. Run it by `make study`; `--name` names
the files of another sweep.
"""

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from cost_profiles.catalog import find_profile
from workloads.report.plots import save_png
from workloads.report.table import format_seconds
from workloads.sweep.figures import sweep_figure
from workloads.sweep.report import by_grid
from workloads.sweep.result import CellResult
from workloads.sweep.runner import read_results

FIGURES = ("p50", "p95", "p99", "p999")
REPORTED = ("p50", "p95", "p99")
NEAR = 1.02
NAMES = {"p50": "P50", "p95": "P95", "p99": "P99", "p999": "P99.9"}
Group = dict[tuple[str, str, str], CellResult]
"""Results of one load, by mode, policy and preemption."""


def groups(results: Sequence[CellResult]) -> dict[str, Group]:
    """Results by load, the load in words."""
    found: dict[str, Group] = {}
    for result in results:
        cell = result.cell
        name = f"QPS {cell.qps:g}" + (f", retrieval x{cell.delay:g}" if cell.delay != 1 else "")
        found.setdefault(name, {})[cell.mode, cell.policy, cell.preemption] = result
    return found


def value_s(result: CellResult, figure: str) -> float:
    found = result.ttft_final_s[figure]
    if found is None:
        raise click.ClickException(f"{result.cell} has no first token")
    return found


def table(group: Group) -> Iterator[str]:
    """A load's table; speed-ups are over waiting and over streaming, both under `default_vllm`."""
    many = len({preemption for _, _, preemption in group}) > 1
    how = " | preemption" if many else ""
    heads = [NAMES[figure] for figure in FIGURES]
    over_wait = [f"{NAMES[figure]} over wait" for figure in REPORTED]
    over_stream = [f"{NAMES[figure]} over stream" for figure in REPORTED]
    columns = [*heads, *over_wait, *over_stream, "busy", "KV peak"] + (["swap", "recompute", "drop"] if many else [])
    yield f"| mode | policy{how} | " + " | ".join(columns) + " |"
    yield "|---" * (2 + many) + "|--:" * len(columns) + "|"
    for (mode, policy, preemption), result in group.items():
        wait, stream = (group[base, "default_vllm", preemption] for base in ("wait", "stream"))
        cells = [mode, f"**{policy}**" if policy == "s2l" else policy] + ([preemption] if many else [])
        cells += [format_seconds(value_s(result, figure)) for figure in FIGURES]
        for base in (wait, stream):
            cells += [f"{value_s(base, figure) / value_s(result, figure):.2f}x" for figure in REPORTED]
        cells += [f"{result.busy_share:.0%}", f"{result.kv_peak_share:.0%}"]
        if many:
            cells += [f"{result.preemptions.get(kind, 0):,}" for kind in ("swap", "recompute", "drop")]
        yield "| " + " | ".join(cells) + " |"


def scale_table(results: Sequence[CellResult]) -> Iterator[str]:
    """What more replicas of one load buy."""
    yield "| replicas | chips | chips a question a second | P50 | P95 | P99 | P99.9 | busy | KV peak |"
    yield "|--:" * 9 + "|"
    for result in results:
        cell = result.cell
        chips = cell.replicas * find_profile(cell.profile).devices
        waits = " | ".join(format_seconds(value_s(result, figure)) for figure in FIGURES)
        yield (
            f"| {cell.replicas} | {chips} | {chips / cell.qps:.2f} | {waits} | {result.busy_share:.0%} | "
            f"{result.kv_peak_share:.0%} |"
        )


def worse_than_waiting(group: Group) -> Iterator[str]:
    """Where streaming under `s2l` is later than waiting, under the same policy or under `default_vllm`."""
    for (mode, policy, preemption), result in group.items():
        if (mode, policy) != ("stream", "s2l"):
            continue
        for base in ("default_vllm", "s2l"):
            wait = group["wait", base, preemption]
            for figure in FIGURES:
                ratio = value_s(result, figure) / value_s(wait, figure)
                if ratio > 1:
                    yield f"{NAMES[figure]}, {preemption}: {ratio:.3f} times waiting under {base}"


def not_the_best(group: Group) -> Iterator[str]:
    """Where another policy streams sooner than `s2l` by more than 2%, with the same preemption."""
    for (mode, policy, preemption), result in group.items():
        if (mode, policy) != ("stream", "s2l"):
            continue
        for figure in FIGURES:
            others = {
                other: value_s(found, figure)
                for (kind, other, how), found in group.items()
                if kind == "stream" and how == preemption
            }
            best = min(others, key=lambda name: others[name])
            if value_s(result, figure) > NEAR * others[best]:
                ratio = value_s(result, figure) / others[best]
                yield f"{NAMES[figure]}, {preemption}: {ratio:.3f} times {best}"


def findings(grids: dict[str, list[CellResult]]) -> Iterator[str]:
    """The lists of exceptions; empty ones are said to be empty."""
    for title, find in (
        ("Where streaming under `s2l` is later than waiting", worse_than_waiting),
        ("Where another policy streams sooner than `s2l` by more than 2%", not_the_best),
    ):
        lines = [
            f"- {grid}, {load}: {line}"
            for grid, results in grids.items()
            for load, group in groups(results).items()
            for line in find(group)
        ]
        yield f"### {title}\n"
        yield from lines or ["Nowhere."]
        yield ""


def is_compared(results: Sequence[CellResult]) -> bool:
    """True if ways of serving are compared, and not numbers of replicas."""
    return len({result.cell.replicas for result in results}) == 1


def page(grids: dict[str, list[CellResult]], commit: str) -> Iterator[str]:
    results = [result for some in grids.values() for result in some]
    seeds = sorted({result.cell.seed for result in results})
    took_s = sum(result.took_s for result in results)
    yield "# Results of the study\n"
    yield (
        f"Made by `s2l sweep` and `benchmarks/study.py` at commit {commit}, seed {', '.join(map(str, seeds))}: "
        f"{len(results)} simulations, {took_s / 60:.0f} minutes of one core. Seconds count from the last chunk of "
        "context to the first token. Speed-ups are over waiting, and over streaming, both under `default_vllm` with "
        "the same preemption; above 1 is sooner. What it means stands in [README.md](README.md).\n"
    )
    for name in dict.fromkeys(result.cell.profile for result in results):
        profile = find_profile(name)
        parts = ", ".join(f"{part} {about.provenance}" for part, about in profile.parts.items())
        yield f"Profile `{name}`: {profile.hardware}; {parts}.\n"
    compared = {grid: some for grid, some in grids.items() if is_compared(some)}
    if compared:
        yield "## Findings\n"
        yield from findings(compared)
    for grid, some in grids.items():
        yield f"## {grid}\n"
        yield f"![TTFT by percentile, a curve or point for each policy and mode]({grid}.png)\n"
        if grid not in compared:
            yield f"{some[0].cell.sessions:,} sessions, {some[0].cell.qps:g} a second\n"
            yield from scale_table(some)
            yield ""
            continue
        for load, group in groups(some).items():
            yield f"### {grid}, {load}\n"
            yield from table(group)
            yield ""


@click.command(help=(__doc__ or "").replace("\n\n    python", "\n\n\b\n    python", 1))
@click.argument("sweep", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--name", default="results", show_default=True, help="Of the page and the JSON file.")
def main(sweep: Path, out: Path, name: str) -> None:
    """Writes the pages."""
    results = read_results(sweep)
    grids = by_grid(results)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True)
    out.mkdir(parents=True, exist_ok=True)
    for grid, some in grids.items():
        save_png(sweep_figure(some), out / f"{grid}.png")
    (out / f"{name}.md").write_text("\n".join(page(grids, commit.stdout.strip())) + "\n", encoding="utf-8")
    lines = [json.dumps(result.to_json()) for result in results]
    (out / f"{name}.json").write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    click.echo(f"{out}/{name}.md: {len(results)} cells")


if __name__ == "__main__":
    main()
