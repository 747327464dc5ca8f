"""`s2l profile check`: predicts, runs, and reports the error."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from serving.commands.profile_options import engine_options, trials_bar
from serving.config import ServeConfig


@click.command(epilog="Example: s2l profile check cpu-2core-smollm2-135m --steps 40 --seed 1")
@click.argument("profile", metavar="NAME|FILE")
@engine_options
@click.option("--steps", default=60, show_default=True, type=click.IntRange(min=1), help="Random steps to run.")
@click.option("--repeats", default=5, show_default=True, help="Runs of each trial while nothing else runs.")
@click.option("--budget-s", default=300.0, show_default=True, help="When to stop, however busy the machine was.")
@click.option("--seed", default=0, show_default=True, help="Of the steps, and of their order.")
@click.option("--png", type=click.Path(dir_okay=False, path_type=Path), help="Draw the errors into this file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on stdout.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def check_command(
    profile: str,
    steps: int,
    repeats: int,
    budget_s: float,
    seed: int,
    png: Path | None,
    as_json: bool,
    quiet: bool,
    **engine: Any,
) -> None:
    """Check a profile on this machine: predict random steps and copies, run them, report the errors.

    The steps are not those that a profile is fitted to. Whatever the errors are, the exit code is 0.
    """
    from rich.console import Console

    from cost_profiles.catalog import find_profile
    from cost_profiles.check import compare, random_trials
    from cost_profiles.deviation import by_kind
    from cost_profiles.deviation_table import errors_table
    from cost_profiles.measure import conditions
    from cost_profiles.rounds import Pace

    found = find_profile(profile)
    config = ServeConfig(**engine)
    from serving.commands.progress import progress_bars
    from serving.measuring import measure_engine

    pace = Pace(repeats, budget_s, seed)
    with trials_bar(quiet=quiet) as on_window, progress_bars(quiet=quiet) as progress:
        measured = measure_engine(config, lambda sizes: random_trials(sizes, steps, seed), pace, progress, on_window)
    deviations = compare(found, measured.timed, repeats)
    rows = by_kind(deviations)
    about = conditions(measured.timed, pace)
    if png is not None:
        from cost_profiles.deviation_figure import deviation_figure

        png.parent.mkdir(parents=True, exist_ok=True)
        deviation_figure(f"{found.name}, checked", deviations).savefig(png, dpi=150)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "profile": found.name,
                    "conditions": about,
                    "kinds": [asdict(row) for row in rows],
                    "deviations": [asdict(one) for one in deviations],
                },
                indent=2,
            )
        )
        return
    console = Console(highlight=False)
    console.print(errors_table(rows))
    console.print(", ".join(f"{name} {value}" for name, value in about.items()), soft_wrap=True)
    if png is not None:
        click.echo(f"Picture: {png}")
