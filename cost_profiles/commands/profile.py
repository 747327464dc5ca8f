"""`s2l profile`: latency profiles; each subcommand is an entry point, so that other packages bring theirs."""

import click

from s2l_jax.cli_group import LazyGroup


@click.group(cls=LazyGroup, entry_group="s2l.profile_commands")
def profile() -> None:
    """List, show, derive and import latency profiles of hardware."""
