"""The Dockerfile: what it copies is there, what it runs is pinned, and what comes out runs without root."""

import fnmatch
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.serving.deploy.command_lines import DEPLOY, REPOSITORY
from tests.serving.deploy.dockerfile import Stage, lineage, read_stages

DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
TARGETS = {"cpu": ("otel",), "cuda": ("otel", "cuda"), "tpu": ("otel", "tpu")}
STAGES = read_stages(DOCKERFILE)
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("there is no hadolint for this platform")
    found = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout
    assert found.stdout == ""


def test_all_that_is_copied_exists_and_reaches_the_builder() -> None:
    copied = [source for stage in STAGES.values() for source in _sources(stage)]
    assert len(copied) > 8
    for source in copied:
        assert (REPOSITORY / source).exists(), source
        assert not _is_ignored(source), source


def test_secrets_and_checkouts_stay_outside() -> None:
    for path in (".git", ".venv", "out", "tests", ".env", "docs"):
        assert _is_ignored(path), path
    assert _is_ignored("serving/__pycache__"), "in a folder that is copied"


def test_all_packages_are_copied() -> None:
    packages = {pattern.rstrip(".*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages <= set(_sources(STAGES["wheel"]))


@pytest.mark.parametrize("target", TARGETS)
def test_targets_follow_one_pattern(target: str) -> None:
    stages = lineage(STAGES, target)
    assert [stage.name for stage in stages] == ["base", "runtime", target]
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", stages[0].base), "by version and digest"
    user = stages[-1].all("USER")[-1]
    assert user.split(":")[0].isdecimal(), "a number, so that Kubernetes sees that it is not root"
    assert user.split(":")[0] != "0"
    assert stages[-1].instructions[-1][0] == "USER", "nothing after it needs root"
    assert f"--from=build-{target} /opt/s2l /opt/s2l" in stages[-1].all("COPY")
    runtime = stages[1]
    assert json.loads(*runtime.all("VOLUME")) == ["/cache"]
    assert "/health" in runtime.all("HEALTHCHECK")[0]
    assert json.loads(*runtime.all("ENTRYPOINT"))[0] == "tini", "SIGTERM reaches a server that still compiles"
    assert runtime.all("STOPSIGNAL") == ["SIGTERM"]
    platforms = " ".join(stages[-1].all("ENV"))
    assert f"JAX_PLATFORMS={target}" in platforms, "a device that is not there is an error, not a slow server"


def test_health_check_is_a_program_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    command = json.loads(STAGES["runtime"].all("HEALTHCHECK")[0].partition("CMD ")[2])
    asked = []
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: asked.append((url, timeout)))
    assert command[:2] == ["python", "-c"]
    exec(compile(command[2], "healthcheck", "exec"), {})
    assert asked == [("http://127.0.0.1:8000/health", 4)]


@pytest.mark.parametrize("target", TARGETS)
def test_pins_are_what_the_project_asks_for(target: str) -> None:
    pins = _pins(target)
    for wanted in _wanted(TARGETS[target]):
        if wanted.name in pins:
            assert wanted.specifier.contains(pins[wanted.name]), f"{wanted}: run tools/image_requirements.sh"
    assert pins["jax"] == _pins("cpu")["jax"], "one version for all images"


# By hand and nightly, so that a new dependency does not have to wait for its pin: images then get its newest version.
@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_every_dependency_is_pinned(target: str) -> None:
    missing = {wanted.name for wanted in _wanted(TARGETS[target])} - set(_pins(target))
    assert not missing, "run tools/image_requirements.sh"


def _sources(stage: Stage) -> list[str]:
    local = [rest.split()[:-1] for rest in stage.all("COPY") if not rest.startswith("--from=")]
    return [source for sources in local for source in sources]


def _is_ignored(path: str) -> bool:
    """As the builder reads the ignore file: the last pattern that fits decides, for the path or a folder above it."""
    lines = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
    is_ignored = False
    for line in lines:
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").removeprefix("**/")
        parts = path.split("/")
        candidates = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        if "**/" in line:
            candidates += parts
        if any(fnmatch.fnmatch(candidate, pattern) for candidate in candidates):
            is_ignored = not line.startswith("!")
    return is_ignored


def _pins(target: str) -> dict[str, str]:
    lines = (DOCKERFILE.parent / f"requirements-{target}.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {name.replace("_", "-").lower(): version for name, version in pairs}


def _wanted(extras: tuple[str, ...]) -> list[Requirement]:
    project = PROJECT["project"]
    texts = [*project["dependencies"], *(text for extra in extras for text in project["optional-dependencies"][extra])]
    requirements = [Requirement(text) for text in texts]
    for requirement in requirements:
        requirement.name = requirement.name.replace("_", "-").lower()
    return [wanted for wanted in requirements if wanted.marker is None or wanted.marker.evaluate()]


def test_ignore_file_is_beside_the_dockerfile() -> None:
    assert Path(f"{DOCKERFILE}.dockerignore").exists(), "where BuildKit looks"
