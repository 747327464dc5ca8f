"""Options and progress of the commands that run an engine to measure it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from serving.config import DEFAULT_MODEL, DTYPES, ServeConfig

if TYPE_CHECKING:
    from cost_profiles.rounds import OnWindow

_DEFAULTS = ServeConfig(cache_dir=None, profile_dir=None)
_OPTIONS = (
    click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Name (see s2l models list) or directory."),
    click.option("--max-model-len", type=int, help="Tokens of one session.  [default: the model's limit]"),
    click.option("--token-budget", default=_DEFAULTS.token_budget, show_default=True, help="Tokens per engine step."),
    click.option("--max-batch", default=_DEFAULTS.max_batch, show_default=True, help="Sessions per engine step."),
    click.option("--block-size", default=_DEFAULTS.block_size, show_default=True, help="Tokens a block holds."),
    click.option("--kv-blocks", type=int, help="KV blocks in the pool.  [default: a share of the memory]"),
    click.option("--dtype", type=click.Choice(DTYPES), help="Of weights and KV.  [default: what is fast here]"),
)


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that say which engine; they are named as `ServeConfig`'s fields."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@contextlib.contextmanager
def trials_bar(*, quiet: bool) -> Iterator["OnWindow"]:
    """Shows on stderr how many quiet runs are done, how long the rest takes, and how busy others keep the machine.

    Yields the function to report to. Where stderr is no terminal, one line says when it begins.
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("Timing   "),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} quiet runs"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("others keep {task.fields[foreign]:.1f} cores busy"),
        console=console,
        disable=quiet or not console.is_terminal,
    )
    task = None

    def report(done: int, total: int, foreign_cores: float) -> None:
        nonlocal task
        if task is None:
            bar.start()
            task = bar.add_task("", total=total, foreign=foreign_cores)
            if bar.disable and not quiet:
                console.print("Timing ...")
        bar.update(task, completed=done, foreign=foreign_cores)

    try:
        yield report
    finally:
        bar.stop()
