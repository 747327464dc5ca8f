"""Finds a folder of real HTML documentation: installed, in the cache, or fetched as a Debian package."""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

DEBIAN_PACKAGES = ("python3.11-doc", "python3.13-doc", "python3.12-doc")
_PATTERN = "usr/share/doc/python3*/html"
_DOWNLOAD_TIMEOUT_S = 120
_STORED = "python_docs.jsonl"


def docs_cache_dir() -> Path:
    """Where fetched documentation is kept: `s2l/docs` under the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "s2l" / "docs"


def stored_crawl() -> Path:
    """The crawl that comes with this package."""
    return Path(str(resources.files("workloads.crawl") / _STORED))


@dataclass(frozen=True, slots=True)
class Docs:
    """A folder of HTML documentation.

    Attributes:
      root: the folder; pages are the `*.html` files below it.
      source: what it is, where it comes from and under which licence.
    """

    root: Path
    source: str


def find_python_docs(cache: Path, say: Callable[[str], None], system_root: Path = Path("/")) -> Docs | None:
    """Finds the Python documentation, fetching Debian's package of it if need be (nothing is installed).

    Args:
      cache: folder that holds, or will hold, the unpacked package.
      say: told what is being done, and why something did not work.
      system_root: where an installed package is looked for.

    Returns:
      The documentation, or None if it is not to be had here.
    """
    for base in (system_root, cache):
        for folder in sorted(base.glob(_PATTERN)):
            if (folder / "library" / "functools.html").exists():
                source = f"Documentation of {folder.parent.name} (Debian package {folder.parent.name}-doc)"
                return Docs(folder, f"{source}; copyright Python Software Foundation, PSF licence version 2")
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        say("No apt-get on this machine, so Debian's package of the Python documentation is not to be had.")
        return None
    for package in DEBIAN_PACKAGES:
        say(f"Fetching Debian's package {package} (13 MB, unpacked into {cache}, not installed)")
        problem = _fetch(package, cache)
        if problem is None:
            return find_python_docs(cache, say, system_root)
        say(f"  {package}: {problem}")
    return None


def _fetch(package: str, cache: Path) -> str | None:
    """Downloads and unpacks a package; returns what went wrong, if anything did."""
    download = cache / "download"
    shutil.rmtree(download, ignore_errors=True)
    download.mkdir(parents=True)
    try:
        problem = _run(["apt-get", "download", package], download)
        if problem:
            return problem
        archive = next(download.glob("*.deb"), None)
        if archive is None:
            return "apt-get downloaded nothing"
        unpacked = download / "unpacked"
        problem = _run(["dpkg-deb", "-x", str(archive), str(unpacked)], download)
        if problem:
            return problem
        if not any(unpacked.glob(_PATTERN)):
            return "the package holds no HTML documentation where it was expected"
        shutil.rmtree(cache / "usr", ignore_errors=True)
        (unpacked / "usr").rename(cache / "usr")
        return None
    finally:
        shutil.rmtree(download, ignore_errors=True)


def _run(command: list[str], folder: Path) -> str | None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_DOWNLOAD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{command[0]} did not finish within {_DOWNLOAD_TIMEOUT_S} s"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return f"{command[0]}: {lines[-1]}"
