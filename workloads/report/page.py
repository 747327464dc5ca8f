"""One self-contained HTML page about one run, or several side by side: nothing in it is loaded from anywhere."""

import json
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from workloads.report.occupancy import occupancy_figure
from workloads.report.plots import inline_svg, timeline_figure, timelines_end_s, ttft_figure
from workloads.report.run import Agreement, Run, answers_agree
from workloads.report.table import compare_rows, format_seconds

_SAMPLES = 2


def write_report(path: Path, runs: Sequence[Run], title: str) -> None:
    """Writes the page.

    Args:
      path: file to write.
      runs: one or more; ratios are to the first one.
      title: stands at the top.
    """
    environment = Environment(
        loader=PackageLoader("workloads.report", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["seconds"] = format_seconds
    agreement = answers_agree(runs)
    until_s = timelines_end_s(runs)
    html = environment.get_template("report.html.j2").render(
        title=title,
        runs=runs,
        rows=compare_rows(runs),
        headline=_headline(runs),
        ttft=Markup(inline_svg(ttft_figure(runs))),
        timelines=[(run.name, Markup(inline_svg(timeline_figure(run, until_s)))) for run in runs],
        occupancy=Markup(inline_svg(occupancy_figure(runs))) if any(run.steps for run in runs) else None,
        agreement=agreement if len(runs) > 1 else None,
        samples=sample_answers(runs, agreement),
        failures=[(run.name, row) for run in runs for row in run.sessions if not row.completed],
        details=[(run.name, json.dumps(run.summary, indent=2)) for run in runs],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")


def sample_answers(runs: Sequence[Run], agreement: Agreement) -> list[tuple[str, list[tuple[str, str]]]]:
    """Two answers to look at, as `(question, [(run, answer), ...])`; one line for all runs where they agree."""
    completed = [{row.session: row for row in run.sessions if row.completed} for run in runs]
    samples: list[tuple[str, list[tuple[str, str]]]] = []
    for session, row in completed[0].items():
        if row.text and len(samples) < _SAMPLES and all(session in rows for rows in completed):
            answers = [(run.name, rows[session].text) for run, rows in zip(runs, completed, strict=True)]
            if len(runs) > 1 and len({text for _, text in answers}) == 1 and not agreement.mismatch:
                answers = [("all runs", row.text)]
            samples.append((row.question or session, answers))
    return samples


def _headline(runs: Sequence[Run]) -> str:
    """What the figures say in a sentence."""
    parts = [
        f"{format_seconds(p50_s)} ({run.name})"
        for run in runs
        if (p50_s := run.summary["ttft_final_s"]["p50"]) is not None
    ]
    if not parts:
        return "No session got as far as its first token."
    text = "After the last piece of context arrived, half of the users saw their first token within " + ", ".join(parts)
    values = [run.summary["ttft_final_s"]["p50"] for run in runs]
    if len(runs) == 2 and all(values):
        text += f": {values[1] / values[0]:.1f}x"
    return text + "."
