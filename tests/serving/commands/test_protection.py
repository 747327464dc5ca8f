"""Options that say who may use a server."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from s2l_jax.core.errors import InvalidArgument
from serving.client import ClientTls
from serving.commands.protection import Protection, protection_options
from serving.tls import ServerTls
from tests.serving.certificates import certificates
from tests.serving.tenants.key_files import write_keys


def _parse(*args: str | Path, env: dict[str, str] | None = None) -> Protection:
    parsed: list[Protection] = []

    @click.command()
    @protection_options
    def command(protection: Protection) -> None:
        parsed.append(protection)

    result = CliRunner().invoke(command, [str(one) for one in args], env=env)
    if result.exception is not None:
        raise result.exception
    return parsed[0]


def test_options_are_read(tmp_path: Path) -> None:
    assert _parse() == Protection()
    files, keys = certificates(), write_keys(tmp_path / "keys.json", {"acme": {}})
    protection = _parse(
        *("--api-keys", keys, "--open-path", "/metrics", "--cors-origin", "https://app.example"),
        *("--tls-cert", files.cert, "--tls-key", files.key, "--tls-client-ca", files.ca),
        *("--peer-tls-ca", files.ca, "--peer-tls-cert", files.client_cert, "--peer-tls-key", files.client_key),
    )
    tls = ServerTls(files.cert, files.key, files.ca)
    peer_tls = ClientTls(files.ca, files.client_cert, files.client_key)
    assert protection == Protection(keys, ("/metrics",), ("https://app.example",), tls, peer_tls)
    assert _parse(env={"S2L_API_KEYS_FILE": str(keys)}).api_keys == keys


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["--api-keys", "/no/such/file"], "cannot be read"),
        (["--tls-cert", "cert.pem"], "both --tls-cert and --tls-key"),
        (["--tls-client-ca", "ca.pem"], "both --tls-cert and --tls-key"),
        (["--tls-cert", "/no/such/file", "--tls-key", "/no/such/file"], "cannot be used"),
        (["--peer-tls-cert", "cert.pem", "--peer-tls-key", "key.pem"], "needs --peer-tls-ca"),
        (["--peer-tls-ca", "/no/such/file"], "cannot be read"),
        (["--peer-tls-ca", "ca.pem", "--peer-tls-cert", "cert.pem"], "go together"),
        (["--cors-origin", "app.example"], "must look like https://app.example"),
        (["--cors-origin", "https://app.example/"], "must look like https://app.example"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_loaded(args: list[str], hint: str) -> None:
    with pytest.raises(InvalidArgument, match=hint):
        _parse(*args)


def test_who_opens_a_server_to_others_is_warned() -> None:
    keys, files = Path("keys.toml"), certificates()
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        assert Protection().warning(host) is None
        assert Protection().engine_warning(host) is None
    for host in ("0.0.0.0", "::", "10.0.0.1", "host.example"):
        assert "everybody who reaches" in str(Protection().warning(host))
        assert "everybody who reaches" in str(Protection(tls=files.server()).warning(host))
        assert "can be read on their way" in str(Protection(keys).warning(host))
        assert Protection(keys, tls=files.server()).warning(host) is None
        assert Protection(tls=files.server(mutual=True)).warning(host) is None
        for protection in (Protection(), Protection(keys), Protection(tls=files.server())):
            assert "has this engine" in str(protection.engine_warning(host))
        assert Protection(tls=files.server(mutual=True)).engine_warning(host) is None
