"""Every command line that is shown somewhere is one that `s2l` takes."""

import json
import re
from pathlib import Path

import click
import pytest

from tests.serving.deploy.command_lines import (
    DEPLOY,
    REPOSITORY,
    commands_of_comments,
    commands_of_document,
    commands_of_text,
    parse,
)
from tests.serving.deploy.dockerfile import read_stages

DOCUMENTS = sorted([REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs").rglob("*.md")])
SCRIPTS = (DEPLOY / "slurm" / "s2l.sbatch", DEPLOY / "vm" / "setup.sh")
NOTES = DEPLOY / "helm" / "s2l" / "templates" / "NOTES.txt"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_documents_show_command_lines_that_exist(document: Path) -> None:
    for args in commands_of_document(document):
        parse(args)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_show_command_lines_that_exist(script: Path) -> None:
    found = list(commands_of_comments(script))
    assert found
    for args in found:
        parse(args)


def test_the_charts_notes_show_command_lines_that_exist() -> None:
    (args,) = commands_of_text(NOTES.read_text(encoding="utf-8"))
    parse(args)


def test_command_lines_are_found() -> None:
    readme = list(commands_of_document(REPOSITORY / "README.md"))
    assert ["serve"] in readme
    assert ["ask", "What went wrong?", "--stdin"] in readme, "behind a pipe"
    assert len(readme) > 10
    deploy = list(commands_of_document(REPOSITORY / "docs" / "deploy.md"))
    assert len(deploy) >= 8
    assert sum(args[0] == "serve" for args in deploy) >= 6, "also what images and scripts are given"
    sbatch = list(commands_of_comments(DEPLOY / "slurm" / "s2l.sbatch"))
    assert ["serve", "--model", "smollm2-135m", "--max-model-len", "4096"] in sbatch
    assert any("tpu=8" in args for args in commands_of_comments(DEPLOY / "vm" / "setup.sh"))


@pytest.mark.parametrize(
    "line",
    [
        "s2l serve --no-such-option",
        "s2l serve --port many",
        "s2l serve --preemption never",
        "s2l serve model",
        "s2l serf",
        "docker run --rm s2l:0.1.0-cpu serve --hots 0.0.0.0",
        "sbatch serving/deploy/slurm/s2l.sbatch --modle x",
        "sudo serving/deploy/vm/setup.sh tpu --slice tpu=8",
    ],
)
def test_wrong_command_lines_are_refused(line: str) -> None:
    (args,) = commands_of_text(line)
    with pytest.raises(click.UsageError):
        parse(args)


def test_images_start_a_server() -> None:
    runtime = read_stages(DEPLOY / "docker" / "Dockerfile")["runtime"]
    (entry,) = map(json.loads, runtime.all("ENTRYPOINT"))
    (command,) = map(json.loads, runtime.all("CMD"))
    assert entry[-1] == "s2l"
    parse(command)


def test_the_unit_starts_a_server() -> None:
    unit = (DEPLOY / "vm" / "s2l.service").read_text()
    line = re.search(r"^ExecStart=\S+/s2l (.*) \$S2L_OPTIONS$", unit, re.MULTILINE)
    assert line is not None
    parse(line[1].split())


def test_the_chart_gives_options_that_exist() -> None:
    templates = DEPLOY / "helm" / "s2l" / "templates"
    options = re.findall(
        r"^- --([a-z][a-z0-9-]*)", "".join(path.read_text() for path in templates.glob("*.tpl")), re.MULTILINE
    )
    assert {"model", "host", "port", "http-port", "api-keys", "drain-timeout-s", "role", "peers"} <= set(options)
    for option in options:
        value = {"quiet": [], "vllm-metrics": [], "world": ["lws"]}.get(option, ["1"])
        parse(["serve", f"--{option}", *value])
