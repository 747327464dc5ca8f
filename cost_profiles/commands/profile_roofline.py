"""`s2l profile roofline`: profiles of hardware that nobody has measured."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from s2l_jax.core.errors import InvalidArgument

if TYPE_CHECKING:
    from cost_profiles.profile import Profile


@click.command(
    epilog="""\b
Examples:
  s2l profile roofline --chip v6e --count 4 --model llama3.1-8b --out out/v6e-4.json
  s2l profile roofline --chip h100 --count 2 --model llama3.1-70b --int8-weights --out out/h100-70b.json"""
)
@click.option("--chip", help="Such as h200 or v6e.")
@click.option("--count", type=int, default=1, show_default=True, help="Chips that serve one copy of the model.")
@click.option("--model", help="llama3.1-8b or llama3.1-70b.")
@click.option("--int8-weights", is_flag=True, help="Keep the layers' matrices in 8 bits.")
@click.option("--all", "everything", is_flag=True, help="Write all rooflines that come with s2l; --out is a folder.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The profile's file.")
def roofline_command(
    chip: str | None, count: int, model: str | None, int8_weights: bool, everything: bool, out: Path
) -> None:
    """Derive a profile from data sheets: arithmetic, bandwidths and links, times efficiencies.

    With --all, parts of profiles in the folder that are better than a roofline stay as they are.
    """
    from cost_profiles.hardware import CHIPS, Machine, find_chip
    from cost_profiles.model_shape import MODELS, find_model
    from cost_profiles.roofline import roofline

    if everything:
        if chip is not None or model is not None or int8_weights:
            raise InvalidArgument("--all writes all rooflines, so --chip, --model and --int8-weights say nothing")
        _write_all(out)
        return
    if chip is None or model is None:
        raise InvalidArgument(
            f"--chip and --model are needed, or --all: chips are {', '.join(CHIPS)}; models are {', '.join(MODELS)}"
        )
    machine = Machine(chip if count == 1 else f"{chip}-{count}", find_chip(chip), count)
    _write(out, roofline(machine, find_model(model), int8_weights=int8_weights, name=out.stem))


def _write_all(folder: Path) -> None:
    from cost_profiles.catalog import find_profile
    from cost_profiles.stored_rooflines import STORED_ROOFLINES, renewed

    for name, stored in STORED_ROOFLINES.items():
        path = folder / f"{name}.json"
        profile = stored.profile()
        _write(path, renewed(find_profile(str(path)), profile) if path.exists() else profile)


def _write(path: Path, profile: "Profile") -> None:
    from cost_profiles.catalog import write_profile

    write_profile(path, profile)
    click.echo(f"{path}: {profile.model} ({profile.dtype}) on {profile.hardware}")
