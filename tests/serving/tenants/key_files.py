"""A file of keys for tests."""

import json
from pathlib import Path
from typing import Any


def key_of(tenant: str) -> str:
    return f"s2l-key-of-tenant-{tenant}"


def write_keys(path: Path, tenants: dict[str, dict[str, Any]]) -> Path:
    """A file with a key for each tenant, and the given limits."""
    tables = {name: {"keys": [key_of(name)]} | limits for name, limits in tenants.items()}
    path.write_text(json.dumps({"tenants": tables}))
    return path
