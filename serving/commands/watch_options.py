"""Options of `s2l serve` that say how the server is watched."""

import dataclasses
from collections.abc import Callable
from typing import Any

import click

from serving.watch.config import WatchConfig

_OPTIONS = (
    click.option(
        "--vllm-metrics",
        is_flag=True,
        help="Export metrics under vLLM's names (vllm:...) as well, for dashboards and gateways that read them.",
    ),
)


def watch_options[F: Callable[..., Any]](command: F) -> F:
    """Adds the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def take_watch_config(options: dict[str, Any]) -> WatchConfig:
    """Takes what these options were set to out of a command's options."""
    return WatchConfig(**{field.name: options.pop(field.name) for field in dataclasses.fields(WatchConfig)})
