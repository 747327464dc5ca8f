"""The command `s2l`: collects subcommands from the entry points `s2l.commands` and loads only the one that runs."""

import sys
from importlib.metadata import version

import click

from s2l_jax.cli_group import LazyGroup
from s2l_jax.core.errors import InvalidArgument, S2LError

ENTRY_POINTS = "s2l.commands"
_DISTRIBUTION = "s2l-jax"
_INTERRUPTED = 130


@click.group(
    cls=LazyGroup,
    entry_group=ENTRY_POINTS,
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
