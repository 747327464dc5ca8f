"""`s2l profile list`: the profiles that come with the package."""

import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on stdout.")
def list_command(as_json: bool) -> None:
    """List the profiles that come with s2l: hardware, model, and where their costs come from."""
    from cost_profiles.catalog import find_profile, stored_names

    profiles = [find_profile(name) for name in stored_names()]
    if as_json:
        rows = [
            {
                "name": profile.name,
                "hardware": profile.hardware,
                "model": profile.model,
                "dtype": profile.dtype,
                "provenance": {name: part.provenance for name, part in profile.parts.items()},
            }
            for profile in profiles
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console

    from cost_profiles.table import list_table

    Console().print(list_table(profiles))
