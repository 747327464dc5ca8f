"""`s2l trace validate`: says what is wrong with a trace."""

from pathlib import Path

import click

_EXIT_INVALID = 1
_MAX_PROBLEMS = 20


@click.command(epilog="Example: s2l trace validate out/trace.jsonl && s2l replay out/trace.jsonl ...")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def validate(file: Path) -> None:
    """Check every line of a trace.

    Prints what is wrong (up to 20 problems, each with file and line) and exits with 1, or one line if nothing is.
    """
    from workloads.trace import check_trace

    checked = check_trace(file, _MAX_PROBLEMS)
    for problem in checked.problems:
        click.echo(problem)
    if len(checked.problems) == _MAX_PROBLEMS:
        click.echo(f"stopped after {_MAX_PROBLEMS} problems")
    if checked.problems:
        raise SystemExit(_EXIT_INVALID)
    made_up = f"; made up: {checked.header.made_up}" if checked.header.made_up else ""
    click.echo(
        f"{file}: valid: {checked.sessions:,} sessions, {checked.events:,} events, {checked.end_s:,.1f} s{made_up}"
    )
