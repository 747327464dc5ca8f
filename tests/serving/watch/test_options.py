"""Options of `s2l serve` that say how it is watched are checked before the model is loaded."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from s2l_jax.core.errors import InvalidArgument
from serving.commands.serve import serve
from serving.commands.watch_options import engine_watch_options, take_watch_config, watch_options
from serving.watch.config import WatchConfig


def test_become_a_configuration(tmp_path: Path) -> None:
    found = []

    @click.command
    @engine_watch_options
    def command(**options: object) -> None:
        found.append(take_watch_config(options))
        assert not options

    args = ["--vllm-metrics", "--log-format", "json", "--log-level", "info", "--debug-profile", str(tmp_path)]
    assert CliRunner().invoke(command, args).exit_code == 0
    assert CliRunner().invoke(command, ["--otlp-endpoint", "http://localhost:4318"]).exit_code == 0
    assert CliRunner().invoke(command, []).exit_code == 0
    assert found == [
        WatchConfig(vllm_metrics=True, log_format="json", log_level="info", debug_profile=tmp_path),
        WatchConfig(otlp_endpoint="http://localhost:4318"),
        WatchConfig(),
    ]


def test_a_process_without_engines_takes_no_profiles() -> None:
    found = []

    @click.command
    @watch_options
    def command(**options: object) -> None:
        found.append(take_watch_config(options))

    assert CliRunner().invoke(command, ["--vllm-metrics"]).exit_code == 0
    assert CliRunner().invoke(command, ["--debug-profile", "here"]).exit_code == 2
    assert found == [WatchConfig(vllm_metrics=True)]


def test_serve_refuses_what_cannot_be() -> None:
    result = CliRunner().invoke(serve, ["--otlp-endpoint", "localhost:4317"])
    assert isinstance(result.exception, InvalidArgument)
    assert "--otlp-endpoint" in str(result.exception)
    assert CliRunner().invoke(serve, ["--log-format", "xml"]).exit_code == 2


def test_says_how_to_install_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InvalidArgument, match=r"s2l-jax\[otel\]"):
        WatchConfig(otlp_endpoint="http://localhost:4318")
