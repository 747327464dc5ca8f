"""API keys: hashed, compared in constant time, each with its tenant."""

import hashlib
import hmac
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from s2l_jax.core.errors import InvalidArgument
from serving.tenants.account import MAX_TENANT_CHARS
from serving.tenants.limits import TenantLimits

_HASHED = re.compile(r"sha256:([0-9a-fA-F]{64})")
_TENANT = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_TENANT_CHARS - 1}}}")
_KEY = re.compile(r"[\x21-\x7e]{16,512}")
_LIMITS = tuple(one.name for one in fields(TenantLimits))


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Tenants, their limits and the hashes of their keys.

    Attributes:
      limits: of each tenant.
      digests: SHA-256 of each key, and whose it is.
    """

    limits: Mapping[str, TenantLimits]
    digests: tuple[tuple[bytes, str], ...]

    def tenant_of(self, key: str) -> str | None:
        """Whose key this is, None if nobody's.

        It takes as long for any key: all hashes are compared, each in constant time. Keys are long and random, so a
        plain hash is as good as a slow one.
        """
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = None
        for one, tenant in self.digests:
            if hmac.compare_digest(one, digest):
                found = tenant
        return found


def read_keys(path: Path) -> KeyRing:
    """Reads a file of keys, JSON if it is called so, else TOML: a table `tenants`, and in it one for each tenant.

    A tenant has `keys`, each as `sha256:` and 64 hexadecimal digits, or as it is; and the fields of `TenantLimits`.

    Raises:
      InvalidArgument: it cannot be read, or something in it is wrong; the message says what, and repeats no key.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"the file of API keys {path} cannot be read: {error}") from error
    try:
        return _ring(data)
    except InvalidArgument as error:
        raise InvalidArgument(f"{path}: {error}") from error


def _ring(data: object) -> KeyRing:
    tenants = data.get("tenants") if isinstance(data, dict) and set(data) == {"tenants"} else None
    if not isinstance(tenants, dict) or not tenants:
        raise InvalidArgument("the file must have one table, tenants, with one table or more in it: [tenants.NAME]")
    limits: dict[str, TenantLimits] = {}
    owners: dict[bytes, str] = {}
    for name, table in tenants.items():
        if not _TENANT.fullmatch(name):
            raise InvalidArgument(
                f"tenant {name!r}: a name has 1 to {MAX_TENANT_CHARS} letters, digits and . _ -, no sign first"
            )
        limits[name] = _limits(name, table)
        for position, key in enumerate(table["keys"], 1):
            digest = _digest(key, f"tenant {name!r}, key {position}")
            if digest in owners:
                raise InvalidArgument(f"tenant {name!r}, key {position}: {owners[digest]!r} has this key, too")
            owners[digest] = name
    return KeyRing(limits, tuple(owners.items()))


def _limits(name: str, table: Any) -> TenantLimits:
    if not isinstance(table, dict) or not isinstance(table.get("keys"), list) or not table["keys"]:
        raise InvalidArgument(f"tenant {name!r} has no list of keys: keys = [...]")
    unknown = sorted(set(table) - {"keys", *_LIMITS})
    if unknown:
        raise InvalidArgument(f"tenant {name!r} has {unknown[0]!r}, but may have keys, {', '.join(_LIMITS)}")
    try:
        return TenantLimits(**{one: table[one] for one in _LIMITS if one in table})
    except InvalidArgument as error:
        raise InvalidArgument(f"tenant {name!r}: {error}") from error


def _digest(key: object, where: str) -> bytes:
    if isinstance(key, str):
        hashed = _HASHED.fullmatch(key)
        if hashed:
            return bytes.fromhex(hashed[1])
        if _KEY.fullmatch(key) and not key.startswith("sha256:"):
            return hashlib.sha256(key.encode()).digest()
    raise InvalidArgument(
        f"{where} is neither sha256: and 64 hexadecimal digits, nor a key of 16 to 512 printable ASCII characters "
        "without spaces"
    )
