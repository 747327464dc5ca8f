"""Options that say how a server is watched."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from serving.watch.config import LOG_FORMATS, LOG_LEVELS, WatchConfig

_OPTIONS = (
    click.option(
        "--vllm-metrics",
        is_flag=True,
        help="Export metrics under vLLM's names (vllm:...) as well, for dashboards and gateways that read them.",
    ),
    click.option(
        "--log-format", type=click.Choice(LOG_FORMATS), default="text", show_default=True, help="Of log lines."
    ),
    click.option(
        "--log-level",
        type=click.Choice(LOG_LEVELS),
        default="warning",
        show_default=True,
        help="From info on, one line for each session that ends.",
    ),
    click.option("--otlp-endpoint", metavar="URL", help="Send traces of sessions there, by OTLP over HTTP."),
)
_PROFILE_OPTION = click.option(
    "--debug-profile",
    type=click.Path(path_type=Path, file_okay=False),
    help="Let POST /debug/profile?seconds=N write profiles of JAX into this directory.",
)


def engine_watch_options[F: Callable[..., Any]](command: F) -> F:
    """Adds the options to a command whose process has engines."""
    return watch_options(_PROFILE_OPTION(command))


def watch_options[F: Callable[..., Any]](command: F) -> F:
    """Adds the options to a command whose process has none."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def take_watch_config(options: dict[str, Any]) -> WatchConfig:
    """Takes what these options were set to out of a command's options."""
    names = [field.name for field in dataclasses.fields(WatchConfig) if field.name in options]
    return WatchConfig(**{name: options.pop(name) for name in names})
