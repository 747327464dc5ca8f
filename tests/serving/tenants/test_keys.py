"""The file of keys."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from s2l_jax.core.errors import InvalidArgument
from serving.tenants import keys as keys_module
from serving.tenants.keys import read_keys
from serving.tenants.limits import TenantLimits

KEY = "s2l-0123456789abcdef"


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"s2l-another-long-key").hexdigest()
    toml = f"[tenants.acme]\nkeys = ['{KEY}', 'sha256:{digest}']\nmax_streams = 3\n[tenants.b]\nkeys = ['{KEY}2']\n"
    tables = {"acme": {"keys": [KEY, f"sha256:{digest}"], "max_streams": 3}, "b": {"keys": [f"{KEY}2"]}}
    one = read_keys(_write(tmp_path / "keys.toml", toml))
    assert one == read_keys(_write(tmp_path / "keys.json", json.dumps({"tenants": tables})))
    assert one.limits == {"acme": TenantLimits(max_streams=3), "b": TenantLimits()}
    assert [one.tenant_of(key) for key in (KEY, "s2l-another-long-key", f"{KEY}2")] == ["acme", "acme", "b"]
    assert [one.tenant_of(key) for key in ("", KEY[:-1], f"{KEY}3", "sha256:" + digest, "\udcff")] == [None] * 5
    assert KEY not in repr(one)


def test_all_keys_are_compared_whichever_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {f"t{i}": {"keys": [f"{KEY}{i}"]} for i in range(5)}
    ring = read_keys(_write(tmp_path / "keys.json", json.dumps({"tenants": tables})))
    compared = 0
    really = keys_module.hmac.compare_digest

    def count(a: bytes, b: bytes) -> bool:
        nonlocal compared
        compared += 1
        return really(a, b)

    monkeypatch.setattr(keys_module.hmac, "compare_digest", count)
    assert [ring.tenant_of(key) for key in (f"{KEY}0", f"{KEY}4", "wrong")] == ["t0", "t4", None]
    assert compared == 15


GOOD: dict[str, Any] = {"keys": [KEY]}


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        ([], "one table, tenants"),
        ({}, "one table, tenants"),
        ({"tenants": {}}, "one table, tenants"),
        ({"tenants": {"a": GOOD}, "other": 1}, "one table, tenants"),
        ({"tenants": {"a/b": GOOD}}, "a name has"),
        ({"tenants": {"": GOOD}}, "a name has"),
        ({"tenants": {"a" * 33: GOOD}}, "a name has"),
        ({"tenants": {"a": {}}}, "no list of keys"),
        ({"tenants": {"a": {"keys": []}}}, "no list of keys"),
        ({"tenants": {"a": {"keys": KEY}}}, "no list of keys"),
        ({"tenants": {"a": {"keys": ["short"]}}}, "'a', key 1 is neither"),
        ({"tenants": {"a": {"keys": [KEY, "sha256:abc0123456789"]}}}, "'a', key 2 is neither"),
        ({"tenants": {"a": {"keys": [7]}}}, "key 1 is neither"),
        ({"tenants": {"a": GOOD, "b": GOOD}}, "'b', key 1: 'a' has this key"),
        ({"tenants": {"a": GOOD | {"colour": 1}}}, "may have keys, max_streams"),
        ({"tenants": {"a": GOOD | {"max_streams": 0}}}, "max_streams is 0"),
        ({"tenants": {"a": GOOD | {"tokens_per_minute": True}}}, "tokens_per_minute is True"),
        ({"tenants": {"a": GOOD | {"requests_per_minute": 1.5}}}, "requests_per_minute is 1.5"),
    ],
)
def test_what_is_wrong_is_said_and_no_key_repeated(data: object, hint: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"keys\.json") as error:
        read_keys(_write(tmp_path / "keys.json", json.dumps(data)))
    assert hint in str(error.value)
    assert KEY not in str(error.value) and "short" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.toml", _write(tmp_path / "bad.toml", "["), _write(tmp_path / "bad.json", "{")):
        with pytest.raises(InvalidArgument, match="cannot be read"):
            read_keys(path)
