"""Finds profiles: those that come with the package by name, others by their file."""

import json
from importlib.resources import files
from pathlib import Path

from cost_profiles.profile import Profile
from s2l_jax.core.errors import InvalidArgument

_STORED = files("cost_profiles") / "stored"
_SUFFIX = ".json"


def stored_names() -> list[str]:
    """Names of the profiles that come with the package."""
    if not _STORED.is_dir():
        return []
    return sorted(entry.name.removesuffix(_SUFFIX) for entry in _STORED.iterdir() if entry.name.endswith(_SUFFIX))


def find_profile(name: str) -> Profile:
    """The profile of this name, or in this file.

    Raises:
      InvalidArgument: there is none, or it cannot be read; the message says what there is, or what is wrong.
    """
    if name in stored_names():
        return parse_profile((_STORED / f"{name}{_SUFFIX}").read_text(encoding="utf-8"), name)
    path = Path(name)
    if path.suffix != _SUFFIX and not path.exists():
        raise InvalidArgument(
            f"there is no profile {name!r}; those that come with s2l are {', '.join(stored_names())}, "
            "any other is named by its .json file"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{name}: {error}; expected the file of a profile") from None
    return parse_profile(text, name)


def write_profile(path: Path, profile: Profile) -> None:
    """Writes a profile's file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(profile.to_json(), indent=1) + "\n", encoding="utf-8")


def parse_profile(text: str, name: str) -> Profile:
    """Reads a profile from its file's text.

    Raises:
      InvalidArgument: it is something else; the message starts with `name`.
    """
    try:
        return Profile.from_json(json.loads(text))
    except json.JSONDecodeError as error:
        raise InvalidArgument(f"{name}: not JSON ({error})") from None
    except InvalidArgument as error:
        raise InvalidArgument(f"{name}: {error}") from None
