"""Command groups that collect their commands from entry points, so that each package brings its own."""

import ast
import functools
import importlib.util
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import click


class LazyGroup(click.Group):
    """A group whose commands are entry points: loaded when they run, and listed by reading their source.

    Args:
      entry_group: name of the entry points' group.
      **kwargs: as for `click.Group`.
    """

    def __init__(self, *args: Any, entry_group: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._entry_group = entry_group

    @functools.cached_property
    def entry_points(self) -> dict[str, EntryPoint]:
        """Where each command is; a group within the group has its own."""
        return {entry.name: entry for entry in entry_points(group=self._entry_group)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        return sorted(self.entry_points)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Loads one command, None if there is none of this name."""
        entry = self.entry_points.get(cmd_name)
        return None if entry is None else entry.load()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands, each with the first line of its description."""
        rows = [(name, _first_line_of_help(self.entry_points[name])) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _first_line_of_help(entry: EntryPoint) -> str:
    """First line of a command function's docstring, found without running its module."""
    try:
        spec = importlib.util.find_spec(entry.module)
    except ModuleNotFoundError:
        return ""
    if spec is None or spec.origin is None:
        return ""
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == entry.attr:
            return (ast.get_docstring(node) or "").partition("\n")[0].rstrip(".")
    return ""
