"""Options of `s2l serve` for an engine of several processes."""

import os
from collections.abc import Callable
from typing import Any

import click

from s2l_jax.core.errors import InvalidArgument
from serving.world.config import WorldConfig
from serving.world.environment import LAUNCHERS, placed_by

_DEFAULTS = WorldConfig(2, 0, "localhost")
_OPTIONS = (
    click.option("--world-size", type=int, help="Processes whose devices together are this engine's.  [default: 1]"),
    click.option("--world-rank", type=int, help="Which of them this is: 0 has the server, the others follow it."),
    click.option(
        "--world-address", metavar="HOST:PORT", help="Where rank 0 is reached by the others; takes the next port, too."
    ),
    click.option(
        "--world",
        "launcher",
        type=click.Choice(LAUNCHERS),
        help="Take what the options above do not say from LeaderWorkerSet's variables, or from a TPU slice's.",
    ),
    click.option(
        "--world-silence-s",
        default=_DEFAULTS.silence_s,
        show_default=True,
        help="All processes end when one is not heard of for this long.",
    ),
    click.option(
        "--world-join-s",
        default=_DEFAULTS.join_s,
        show_default=True,
        help="How long they wait for each other at first.",
    ),
)


def world_options[F: Callable[..., Any]](command: F) -> F:
    """Adds the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def take_world_config(options: dict[str, Any]) -> WorldConfig | None:
    """Takes what these options say out of a command's options; None if the process is alone.

    Raises:
      InvalidArgument: they do not go together, or the environment does not say what is left to it.
    """
    names = ("launcher", "world_size", "world_rank", "world_address", "world_silence_s", "world_join_s")
    launcher, size, rank, address, silence_s, join_s = (options.pop(name) for name in names)
    if launcher is not None and None in (size, rank, address):
        found = placed_by(launcher, os.environ)
        given = zip((size, rank, address), found, strict=True)
        size, rank, address = (other if own is None else own for own, other in given)
    missing = [each is None for each in (size, rank, address)]
    if all(missing) or (size == 1 and launcher is not None):
        return None
    if any(missing):
        raise InvalidArgument("--world-size, --world-rank and --world-address go together: give all three")
    return WorldConfig.parse(size, rank, address, silence_s=silence_s, join_s=join_s)
