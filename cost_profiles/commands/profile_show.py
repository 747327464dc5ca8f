"""`s2l profile show`: what a profile says, and which way of bringing back KV it makes cheaper."""

import json
from dataclasses import asdict
from pathlib import Path

import click


@click.command(epilog="Example: s2l profile show h200-tp2-llama3.1-8b --context 4096 --png out/h200.png")
@click.argument("profile", metavar="NAME|FILE")
@click.option("--context", default=0, show_default=True, help="Tokens before those that are brought back.")
@click.option("--png", type=click.Path(dir_okay=False, path_type=Path), help="Draw a picture into this file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on stdout.")
def show_command(profile: str, context: int, png: Path | None, as_json: bool) -> None:
    """Show a profile: memory, costs, their sources, and recomputing KV against swapping it.

    The table compares what it takes to bring back so many tokens: running them again, in a step of their own or in one
    that runs anyway, against copying their blocks to the host and back.
    """
    from cost_profiles.catalog import find_profile
    from cost_profiles.comparison import compare, describe

    found = find_profile(profile)
    comparison = compare(found, context)
    if png is not None:
        from cost_profiles.figure import profile_figure

        png.parent.mkdir(parents=True, exist_ok=True)
        profile_figure(found, context).savefig(png, dpi=150)
    if as_json:
        click.echo(json.dumps({**found.to_json(), "comparison": asdict(comparison)}, indent=2))
        return
    from rich.console import Console

    from cost_profiles.table import comparison_table, memory_lines, residuals_table, source_lines, terms_table

    console = Console(highlight=False)
    console.print(f"[bold]{found.name}[/bold]: {found.model} ({found.dtype}) on {found.hardware}", soft_wrap=True)
    for line in memory_lines(found):
        console.print(line, soft_wrap=True)
    if found.serving_slowdown != 1.0:
        console.print(f"while a server runs it, a step takes {found.serving_slowdown:.2f} times as long")
    if found.idle_slowdown != 1.0:
        console.print(f"after an idle device, {found.idle_slowdown:.2f} times that")
    if found.latency_s:
        console.print(f"latency beside the device's work: {found.latency_s * 1e3:.1f} ms a piece of context")
    console.print(terms_table(found))
    for line in source_lines(found):
        console.print(line, soft_wrap=True, markup=False)
    if found.residuals:
        console.print(residuals_table(found))
    console.print(comparison_table(comparison))
    console.print(f"cheaper, recomputing in a step of its own: {describe(comparison.own)}", soft_wrap=True)
    console.print(
        f"cheaper, recomputing in a step that runs anyway (shared): {describe(comparison.shared)}", soft_wrap=True
    )
    if png is not None:
        click.echo(f"Picture: {png}")
