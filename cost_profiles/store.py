"""Profiles on disk, so that a second start need not measure."""

import hashlib
import json
import re
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from cost_profiles.measurement import MachineKey, Measurement
from s2l_jax.core.errors import InvalidArgument


def profile_file(directory: Path, key: MachineKey) -> Path:
    """Where the profile of this key is kept."""
    digest = hashlib.sha256(json.dumps(asdict(key), sort_keys=True).encode()).hexdigest()[:12]
    return directory / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', key.model)[:60]}-{key.dtype}-{digest}.json"


def load_profile(directory: Path, key: MachineKey) -> Measurement | None:
    """The profile kept for this key; None if there is none, or what is there cannot be used."""
    try:
        value = json.loads(profile_file(directory, key).read_text(encoding="utf-8"))
        return Measurement.from_json(value) if value["key"] == asdict(key) else None
    except (OSError, ValueError, TypeError, LookupError, InvalidArgument):
        return None


def save_profile(directory: Path, key: MachineKey, profile: Measurement) -> Path:
    """Keeps a profile; it appears complete or not at all.

    Raises:
      OSError: it cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = profile_file(directory, key)
    value = {"key": asdict(key), "measured_at": datetime.now(UTC).isoformat(timespec="seconds"), **profile.to_json()}
    with tempfile.NamedTemporaryFile("w", dir=directory, suffix=".partial", delete=False, encoding="utf-8") as file:
        file.write(json.dumps(value, indent=1) + "\n")
    return Path(file.name).replace(path)
