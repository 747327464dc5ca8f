"""TLS, with certificates on both sides or on the server's alone."""

import json
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from websockets.asyncio.client import connect

from s2l_jax.core.errors import InvalidArgument, S2LError, Unavailable
from serving.client import AsyncClient, Client, ClientTls, SamplingParams
from serving.http.server import HttpConfig
from serving.tls import ServerTls
from tests.serving.certificates import certificates
from tests.serving.harness import Sizes, run, threaded_world, world
from tests.serving.http.http_harness import http_world
from tests.serving.tenants.key_files import key_of, write_keys

GREEDY = SamplingParams(max_tokens=4)


@pytest.mark.parametrize("mutual", [False, True])
def test_grpc(mutual: bool) -> None:
    files = certificates()
    refused: list[tuple[str, ClientTls | None]] = [("grpc", None), ("grpcs", ClientTls(files.strange))]
    if mutual:
        refused.append(("grpcs", files.client()))

    async def test() -> None:
        async with world(Sizes(tls=files.server(mutual=mutual))) as one:
            for scheme in ("grpcs://", ""):
                target = f"{scheme}localhost:{one.port}"
                async with AsyncClient(target, tls=files.client(mutual=mutual), timeout_s=10) as client:
                    assert (await client.generate("hi", GREEDY)).text == one.expected("hi", 4)
                    assert (await client.model()).name == "fake"
            for scheme, tls in refused:
                async with AsyncClient(f"{scheme}://localhost:{one.port}", tls=tls, timeout_s=10) as client:
                    with pytest.raises(Unavailable):
                        await client.generate("hi", GREEDY)
            assert one.orchestrator.stats().counters.sessions_opened == 2

    run(test, 40)


@pytest.mark.parametrize("mutual", [False, True])
def test_https(mutual: bool) -> None:
    files = certificates()

    async def test() -> None:
        async with http_world(config=HttpConfig(port=0, tls=files.server(mutual=mutual))) as one:
            url = f"https://localhost:{one.port}"
            async with httpx2.AsyncClient(base_url=url, verify=files.context(mutual=mutual)) as client:
                body = {"prompt": "hi", "max_tokens": 4, "temperature": 0}
                answer = (await client.post("/v1/completions", json=body)).json()
                assert answer["choices"][0]["text"] == one.expected("hi", 4)
            stream = f"wss://localhost:{one.port}/v1/stream"
            async with connect(stream, ssl=files.context(mutual=mutual)) as socket:
                await socket.send(json.dumps({"open": {"content": "hi", "final": True, "params": {"max_tokens": 4}}}))
                events = [json.loads(message) async for message in socket]
                text = "".join(event["token"]["text"] for event in events if "token" in event)
                assert text == one.expected("hi", 4)
            if mutual:
                async with httpx2.AsyncClient(base_url=url, verify=files.context()) as client:
                    with pytest.raises(httpx2.TransportError):
                        await client.get("/health")
            async with httpx2.AsyncClient(base_url=f"http://localhost:{one.port}") as client:
                with pytest.raises(httpx2.TransportError):
                    await client.get("/health")

    run(test)


def test_ask_with_a_key_and_a_certificate(tmp_path: Path) -> None:
    files, keys = certificates(), write_keys(tmp_path / "keys.json", {"acme": {}})
    with threaded_world(Sizes(tls=files.server(mutual=True), keys=keys)) as one:
        with Client(
            f"grpcs://localhost:{one.port}", api_key=key_of("acme"), tls=files.client(mutual=True), timeout_s=10
        ) as client:
            assert client.generate("hi", GREEDY).text == one.expected("hi", 4)
        done = subprocess.run(
            [
                *(sys.executable, "-c", "from serving.cli import main; main()"),
                *("ask", "why?", "--stdin", "--max-tokens", "4", "--target", f"grpcs://localhost:{one.port}"),
                *("--tls-ca", files.ca, "--tls-cert", files.client_cert, "--tls-key", files.client_key),
            ],
            input="text\n",
            capture_output=True,
            text=True,
            timeout=60,
            env={"S2L_API_KEY": key_of("acme"), "PATH": ""},
            check=True,
        )
        assert done.stdout.strip() == one.expected("<text\n|why?>", 4)


def test_wrong_files_are_told(tmp_path: Path) -> None:
    files = certificates()
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish")
    wrong = [
        lambda: ServerTls(files.cert, files.client_key),
        lambda: ServerTls(rubbish, files.key),
        lambda: ServerTls(files.cert, tmp_path / "missing"),
        lambda: ServerTls(files.cert, files.key, rubbish),
        lambda: ClientTls(cert=files.client_cert),
        lambda: AsyncClient("grpc://localhost:1", tls=files.client()),
        lambda: AsyncClient("grpcs://localhost:1", tls=ClientTls(tmp_path / "missing")),
        lambda: AsyncClient("https://localhost:1"),
    ]

    async def test() -> None:
        for make in wrong:
            with pytest.raises(InvalidArgument) as error:
                make()
            assert isinstance(error.value, S2LError) and str(error.value)

    run(test)


def test_locked_keys_are_refused_and_not_asked_about(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    files, locked = certificates(), tmp_path / "locked.pem"
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(InvalidArgument, match="password"):
        ServerTls(files.cert, locked)
