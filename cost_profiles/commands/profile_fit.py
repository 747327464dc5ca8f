"""`s2l profile fit`: fits a profile's terms to its points anew."""

from pathlib import Path

import click


@click.command(epilog="Example: s2l profile fit out/this-machine.json --png out/errors.png")
@click.argument("profile", metavar="NAME|FILE")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the fitted profile to this file.")
@click.option("--png", type=click.Path(dir_okay=False, path_type=Path), help="Draw the errors into this file.")
def fit_command(profile: str, out: Path | None, png: Path | None) -> None:
    """Fit the terms of a profile to the points in its file, and say how well they fit.

    No term may be negative, and relative errors count. Steps are fitted twice: to the sums of a step, which is what the
    scheduler reckons with, and, if the file says how the engine pads, to its padded work, which is what is simulated.
    """
    from rich.console import Console

    from cost_profiles.catalog import find_profile, write_profile
    from cost_profiles.fit_report import print_fit
    from cost_profiles.refit import refit

    fitted = refit(find_profile(profile))
    print_fit(Console(highlight=False), fitted, png)
    if out is not None:
        write_profile(out, fitted)
        click.echo(f"{out}: {len(fitted.steps)} points of steps, {len(fitted.copies)} of copies")
