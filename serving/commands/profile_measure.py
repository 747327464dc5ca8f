"""`s2l profile measure`: what steps and copies of a model cost on this machine."""

from pathlib import Path
from typing import Any

import click

from serving.commands.profile_options import engine_options, trials_bar
from serving.config import ServeConfig


@click.command(epilog="Example: s2l profile measure --model smollm2-135m --budget-s 600 --out out/this-machine.json")
@engine_options
@click.option("--repeats", default=9, show_default=True, help="Runs of each trial while nothing else runs.")
@click.option("--budget-s", default=600.0, show_default=True, help="When to stop, however busy the machine was.")
@click.option("--seed", default=0, show_default=True, help="Of the order of trials.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The profile's file.")
@click.option(
    "--png", type=click.Path(dir_okay=False, path_type=Path), help="Draw the errors of the fit into this file."
)
@click.option("--quiet", is_flag=True, help="No progress bars.")
def measure_command(
    repeats: int, budget_s: float, seed: int, out: Path, png: Path | None, quiet: bool, **engine: Any
) -> None:
    """Measure what steps and copies of a model cost on this machine, and fit a profile to it.

    Runs the engine as a server would, over prefills, decodes, both together, and copies of KV, in rounds and in random
    order. Windows of time in which other processes were busy do not count, as long as the budget lasts.
    """
    config = ServeConfig(**engine)
    from rich.console import Console

    from cost_profiles.catalog import write_profile
    from cost_profiles.fit_report import print_fit
    from cost_profiles.grid import grid
    from cost_profiles.measure import profile_of
    from cost_profiles.rounds import Pace
    from serving.commands.progress import progress_bars
    from serving.measuring import measure_engine, subject_of

    pace = Pace(repeats, budget_s, seed)
    with trials_bar(quiet=quiet) as on_window, progress_bars(quiet=quiet) as progress:
        measured = measure_engine(config, grid, pace, progress, on_window)
    subject = subject_of(out.stem, measured.built)
    profile = profile_of(subject, measured.timed, pace, measured.latency_s, measured.served)
    write_profile(out, profile)
    print_fit(Console(highlight=False), profile, png)
    click.echo(f"{out}: {len(profile.steps)} points of steps, {len(profile.copies)} of copies")
