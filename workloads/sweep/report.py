"""One self-contained HTML page about a sweep."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from workloads.report.plots import inline_svg, save_png
from workloads.report.table import format_seconds
from workloads.sweep.figures import PERCENTILES, layout_of, sweep_figure
from workloads.sweep.result import CellResult

REPORT_FILE = "report.html"
_MISSING = "–"


def by_grid(results: Sequence[CellResult]) -> dict[str, list[CellResult]]:
    """Results by the name of their grid, in order."""
    grids: dict[str, list[CellResult]] = {}
    for result in results:
        grids.setdefault(result.cell.grid, []).append(result)
    return grids


def write_sweep_report(folder: Path, results: Sequence[CellResult], title: str) -> None:
    """Writes `report.html` and a picture for each grid, `GRID.png`."""
    environment = Environment(
        loader=PackageLoader("workloads.sweep", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    grids = by_grid(results)
    sections = []
    for name, some in grids.items():
        figure = sweep_figure(some)
        save_png(figure, folder / f"{name}.png")
        sections.append((name, Markup(inline_svg(figure)), table_rows(some)))
    html = environment.get_template("sweep.html.j2").render(
        title=title, sections=sections, cells=len(results), took_s=sum(result.took_s for result in results)
    )
    (folder / REPORT_FILE).write_text(html, encoding="utf-8")


def table_rows(results: Sequence[CellResult]) -> list[dict[str, str]]:
    """A row for each cell: what it is, its figures, and how much sooner than waiting under `default_vllm` it is."""
    layout = layout_of(results)
    rows = []
    for panel, some in layout.panels.items():
        for result in some:
            base = _baseline(result, some)
            at = getattr(result.cell, layout.x)
            row = {"load": panel, layout.x: at if isinstance(at, str) else f"{at:g}"}
            row |= {"served": layout.series(result)}
            for name in (*PERCENTILES, "p999"):
                value_s = result.ttft_final_s[name]
                row[name.upper()] = _MISSING if value_s is None else format_seconds(value_s)
            for name in PERCENTILES:
                row[f"{name.upper()} sooner"] = _sooner(result, base, name)
            row |= {"busy": f"{result.busy_share:.0%}", "KV peak": f"{result.kv_peak_share:.0%}"}
            row |= {"evictions": str(sum(result.preemptions.get(kind, 0) for kind in ("swap", "recompute", "drop")))}
            rows.append(row | {"failed": str(result.failed)})
    return rows


def _baseline(result: CellResult, some: Sequence[CellResult]) -> CellResult | None:
    """Waiting under the artifact's default policy, with the same load, served alike otherwise."""
    wanted = replace(result.cell, mode="wait", policy="default_vllm")
    return next((other for other in some if other.cell == wanted), None)


def _sooner(result: CellResult, base: CellResult | None, name: str) -> str:
    mine_s = result.ttft_final_s[name]
    theirs_s = None if base is None else base.ttft_final_s[name]
    return f"{theirs_s / mine_s:.2f}x" if mine_s and theirs_s else _MISSING
