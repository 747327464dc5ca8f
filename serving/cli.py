"""The command `s2l`: collects subcommands from the entry points `s2l.commands` and loads only the one that runs."""

import ast
import functools
import importlib.util
import sys
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path

import click

from s2l_jax.core.errors import InvalidArgument, S2LError

ENTRY_POINTS = "s2l.commands"
_DISTRIBUTION = "s2l-jax"
_INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group whose commands are entry points; its help reads their source instead of importing them."""

    @functools.cached_property
    def entry_points(self) -> dict[str, EntryPoint]:
        """Where each command is; a group within the group has its own."""
        return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}

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


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: s2l serve, then: s2l ask 'What is in this file?' --context FILE",
)
@click.version_option(version(_DISTRIBUTION), prog_name="s2l")
def cli() -> None:
    """Serve language models over context that is still arriving."""


def main(args: list[str] | None = None) -> None:
    """Runs the command line; what a user can act on becomes one line on stderr and an exit code."""
    try:
        sys.exit(cli.main(args, prog_name="s2l", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except S2LError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2 if isinstance(error, InvalidArgument) else 1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has gone, as in `s2l ... | head`.
        sys.stderr.close()
        sys.exit(1)
