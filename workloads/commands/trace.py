"""`s2l trace`: makes, reads, checks and describes traces; each subcommand has a module of its own beside this one."""

import functools
import importlib.util
from importlib.metadata import EntryPoint

import click

from s2l_jax.cli_group import LazyGroup

_COMMANDS = ("convert", "crawl", "dataset", "generate", "record", "search", "stats", "validate")


class _TraceGroup(LazyGroup):
    @functools.cached_property
    def entry_points(self) -> dict[str, EntryPoint]:
        """The module `trace_NAME` beside this one holds the command NAME."""
        modules = {name: f"{__package__}.trace_{name}" for name in _COMMANDS}
        return {
            name: EntryPoint(name, f"{module}:{name}", "s2l trace")
            for name, module in modules.items()
            if importlib.util.find_spec(module) is not None
        }


@click.group(cls=_TraceGroup)
def trace() -> None:
    """Make, convert, check and describe traces of sessions."""
