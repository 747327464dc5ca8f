"""Scripts and the systemd unit: linted, and run with stand-ins for what is not here."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.deploy.command_lines import DEPLOY, REPOSITORY, parse

SETUP = DEPLOY / "vm" / "setup.sh"
UNIT = DEPLOY / "vm" / "s2l.service"
SBATCH = DEPLOY / "slurm" / "s2l.sbatch"
SCRIPTS = (SETUP, SBATCH, *sorted((REPOSITORY / "tools").glob("*.sh")))
CLOSING_S = 15  # what the servers take to close after a drain

# Makes environments whose pip does nothing and whose s2l says what it was given.
FAKE_PYTHON = """#!/bin/sh
case "$1 $2" in
  "-m venv") for last; do :; done; mkdir -p "$last/bin"; cp "$0" "$last/bin/python"
    printf '#!/bin/sh\\n[ "$2" != --wrong ] || exit 2\\necho "$@"\\n' > "$last/bin/s2l"; chmod +x "$last/bin/s2l"
    echo made "$last" ;;
  "-m pip") echo pip "$@" ;;
esac
"""


@pytest.fixture
def fake_python(tmp_path: Path) -> Path:
    path = tmp_path / "python"
    path.write_text(FAKE_PYTHON)
    path.chmod(0o755)
    return path


def _run(script: Path, *args: str, expected: int = 0, **environment: str | Path) -> subprocess.CompletedProcess[str]:
    added = {name: str(value) for name, value in environment.items()}
    result = subprocess.run(
        [str(shutil.which("bash")), str(script), *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={**os.environ, **added},
    )
    assert result.returncode == expected, result.stderr
    return result


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    assert shellcheck is not None, "it is in the extra `dev`"
    found = subprocess.run([shellcheck, str(script)], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert found.returncode == 0, found.stdout


def test_setup_puts_files_where_the_unit_looks(tmp_path: Path, fake_python: Path) -> None:
    root = tmp_path / "root"
    args = ("--model", "/srv/models/llama", "--slices", "tpu=8")
    _run(SETUP, "tpu", *args, PYTHON=fake_python, S2L_ROOT=root)
    unit = (root / "etc/systemd/system/s2l.service").read_text()
    assert unit == UNIT.read_text()
    program = re.search(r"^ExecStart=(\S+) ", unit, re.MULTILINE)
    settings = re.search(r"^EnvironmentFile=(\S+)$", unit, re.MULTILINE)
    assert program is not None
    assert settings is not None
    assert (root / program[1].lstrip("/")).exists()
    text = (root / settings[1].lstrip("/")).read_text()
    assert "\nS2L_OPTIONS=--model /srv/models/llama --slices tpu=8\n" in text
    assert "\nJAX_PLATFORMS=tpu,cpu\n" in text
    assert "@" not in text


def test_setup_may_be_run_again(tmp_path: Path, fake_python: Path) -> None:
    root = tmp_path / "root"
    first = _run(SETUP, "cpu", "--model", "tiny-random", PYTHON=fake_python, S2L_ROOT=root)
    settings = root / "etc/s2l/s2l.env"
    settings.write_text(settings.read_text() + "# by hand\n")
    second = _run(SETUP, "cpu", PYTHON=fake_python, S2L_ROOT=root)
    assert "made" in first.stdout
    assert "made" not in second.stdout, "the environment is kept"
    assert "pip" in second.stdout, "and updated"
    assert "# by hand" in settings.read_text(), "without options the settings stay"
    _run(SETUP, "cpu", "--model", "smollm2-135m", PYTHON=fake_python, S2L_ROOT=root)
    assert "S2L_OPTIONS=--model smollm2-135m\n" in settings.read_text()


def test_setup_refuses_what_cannot_work(tmp_path: Path, fake_python: Path) -> None:
    root = tmp_path / "root"
    assert "usage" in _run(SETUP, expected=2).stderr
    assert "usage" in _run(SETUP, "npu", expected=2).stderr
    nothing = _run(SETUP, "cpu", expected=2, PYTHON=fake_python, S2L_ROOT=root)
    assert "options of s2l serve" in nothing.stderr
    _run(SETUP, "cpu", "--wrong", expected=2, PYTHON=fake_python, S2L_ROOT=root)
    assert not (root / "etc/s2l/s2l.env").exists()


def test_setup_needs_the_devices_that_it_is_for(tmp_path: Path, fake_python: Path) -> None:
    tools = tmp_path / "tools"  # a machine without a driver, and where all are root
    tools.mkdir()
    (tools / "dirname").symlink_to(str(shutil.which("dirname")))
    (tools / "id").write_text(f"#!{shutil.which('sh')}\necho 0\n")
    (tools / "id").chmod(0o755)
    refused = _run(SETUP, "cuda", "--model", "m", expected=2, PYTHON=fake_python, PATH=tools)
    assert "driver" in refused.stderr


def test_the_unit_gives_time_to_drain() -> None:
    unit = UNIT.read_text()
    drain = re.search(r"--drain-timeout-s (\d+)", unit)
    stop = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert drain is not None
    assert stop is not None
    assert int(stop[1]) >= int(drain[1]) + CLOSING_S


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd")
    # Its program is not here.
    unit = tmp_path / "s2l.service"
    unit.write_text(UNIT.read_text().replace("/opt/s2l/bin/s2l", "/bin/true"))
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False, timeout=60
    )
    of_unit = [line for line in result.stderr.splitlines() if "s2l.service" in line]
    assert not of_unit, result.stderr


def test_the_job_becomes_the_server(tmp_path: Path) -> None:
    program = tmp_path / "venv" / "bin" / "s2l"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "$$ $JAX_PLATFORMS"\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    result = _run(
        SBATCH,
        "--model",
        "/srv/models/a b",
        S2L_VENV=program.parents[1],
        SLURM_GPUS_ON_NODE="4",
        SLURM_JOB_ID="17",
    )
    _, first, *args = result.stdout.splitlines()
    assert first.split()[1] == "cuda,cpu"
    parse(args)
    assert args[:3] == ["serve", "--slices", "gpu=4"]
    assert args[-2:] == ["--model", "/srv/models/a b"]
    assert "s2l-17.json" in args


def test_the_job_ends_in_time() -> None:
    text = SBATCH.read_text()
    signal = re.search(r"^#SBATCH --signal=B:TERM@(\d+)$", text, re.MULTILINE)
    drain = re.search(r"--drain-timeout-s (\d+)", text)
    assert signal is not None
    assert drain is not None
    assert int(signal[1]) >= int(drain[1]) + CLOSING_S
    assert re.search(r"^exec ", text, re.MULTILINE), "the signal is for the batch script's own process"


def test_the_job_needs_an_environment(tmp_path: Path) -> None:
    assert "S2L_VENV" in _run(SBATCH, expected=2, S2L_VENV=tmp_path).stderr
