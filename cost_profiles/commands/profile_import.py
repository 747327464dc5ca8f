"""`s2l profile import`: profiles from latencies that the Stream2LLM artifact measured."""

from pathlib import Path

import click

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(
    epilog="""\b
Example:
  s2l profile import --recomputation recomputation.json --swap swap.json --base h200-tp2-llama3.1-8b \\
    --out out/h200-imported.json"""
)
@click.option("--recomputation", type=_FILE, help="JSON with recomputation_latencies: milliseconds by tokens.")
@click.option("--swap", type=_FILE, help="JSON with swap_in_latency and swap_out_latency: milliseconds by tokens.")
@click.option("--base", required=True, help="Profile, by name or file, of what the files do not say.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The profile's file.")
def import_command(recomputation: Path | None, swap: Path | None, base: str, out: Path) -> None:
    """Import latencies that the Stream2LLM artifact measured.

    Medians of the repeats become points, to which the terms are fitted. What the files do not say (memory, decode,
    hand-off) stays the base's, with its provenance.
    """
    from rich.console import Console

    from cost_profiles.artifact import import_latencies
    from cost_profiles.catalog import find_profile, write_profile
    from cost_profiles.table import source_lines, terms_table

    profile = import_latencies(find_profile(base), recomputation, swap, out.stem)
    write_profile(out, profile)
    console = Console(highlight=False)
    console.print(terms_table(profile))
    for line in source_lines(profile):
        console.print(line, soft_wrap=True, markup=False)
    click.echo(f"{out}: {len(profile.steps)} points of steps, {len(profile.copies)} of copies")
