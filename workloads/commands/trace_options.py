"""What the subcommands of `s2l trace` share."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from workloads.readers.encode import Encoding
    from workloads.readers.found import Progress as OnProgress

DEFAULT_TOKENS_PER_CHAR = 0.25


def make_encoding(tokenize: str | None, tokens_per_char: float | None) -> "Encoding":
    """How texts are to be written, given the options of the same names.

    Raises:
      UsageError: both are given.
      InvalidArgument: there is no such model.
    """
    from workloads.readers import encode

    if tokenize is not None and tokens_per_char is not None:
        raise click.UsageError("--tokenize and --tokens-per-char exclude each other")
    if tokens_per_char is not None:
        return encode.size_encoding(tokens_per_char)
    if tokenize is None:
        return encode.text_encoding()
    from s2l_jax.models.registry import load

    return encode.token_encoding(load(tokenize).tokenizer, tokenize)


@contextlib.contextmanager
def progress_bar(console: Console, label: str) -> Iterator["OnProgress"]:
    """Shows how far something is while the block runs, if the console is a terminal; yields what to report to."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(label, total=None)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None)

        yield report
