"""Keys, tenants and pages of other sites over HTTP."""

import json
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from serving.http.server import HttpConfig
from tests.serving.harness import Sizes, eventually, run
from tests.serving.http.http_harness import HttpWorld, http_world
from tests.serving.tenants.key_files import key_of, write_keys

TEXT = {"prompt": "hi", "max_tokens": 4, "temperature": 0}


def _as(tenant: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key_of(tenant)}"}


async def _spec(one: HttpWorld) -> dict[str, Any]:
    async with one.client() as client:
        spec: dict[str, Any] = (await client.get("/openapi.json", headers=_as("acme"))).json()
        return spec


def test_every_path_but_the_probes_needs_a_key(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.json", {"acme": {}})

    async def test() -> None:
        config = HttpConfig(port=0, open_paths=("/v1/models",))
        async with http_world(Sizes(keys=keys), config) as one, one.client() as client:
            refused = 0
            for path, methods in (await _spec(one))["paths"].items():
                for method in methods:
                    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": key_of("acme")}):
                        response = await client.request(method, path, headers=headers)
                        if path in {"/health", "/ready", "/v1/models"}:
                            assert response.status_code == 200
                            continue
                        refused += 1
                        assert response.status_code == 401, (method, path)
                        assert response.headers["WWW-Authenticate"] == "Bearer"
                        error = response.json()["error"]
                        assert error["type"] == "authentication_error" and error["code"] == "unauthenticated"
            assert refused >= 30
            assert (await client.get("/openapi.json")).status_code == 401
            assert (await client.get("/v1/nothing")).status_code == 401
            assert one.orchestrator.stats().counters.sessions_opened == 0
            small = {"Authorization": f"bearer {key_of('acme')}"}
            answer = await client.post("/v1/completions", json=TEXT, headers=small)
            assert answer.json()["choices"][0]["text"] == one.expected("hi", 4)

    run(test)


def test_openais_client_shows_its_key(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.json", {"acme": {}})

    async def test() -> None:
        async with http_world(Sizes(keys=keys)) as one:
            async with openai.AsyncOpenAI(base_url=f"{one.url}/v1", api_key=key_of("acme")) as client:
                answer = await client.completions.create(model="fake", prompt="hi", max_tokens=4, temperature=0)
                assert answer.choices[0].text == one.expected("hi", 4)
            async with openai.AsyncOpenAI(base_url=f"{one.url}/v1", api_key="wrong") as client:
                with pytest.raises(openai.AuthenticationError, match="not one of this server's"):
                    await client.models.list()

    run(test)


def test_a_tenants_sessions_are_not_found_by_others(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.json", {"acme": {}, "other": {}})

    async def test() -> None:
        async with http_world(Sizes(keys=keys)) as one, one.client() as client:
            opening = {"session_id": "a", "content": "The ", "params": {"max_tokens": 4}}
            opened = await client.post("/v1/sessions", json=opening, headers=_as("acme"))
            assert opened.status_code == 201 and opened.json()["session_id"] == "a"
            for method, path, body in (
                ("POST", "append", {"content": "x"}),
                ("POST", "update", {"content": "x"}),
                ("POST", "finish", {}),
                ("GET", "output", None),
                ("DELETE", "", None),
            ):
                where = f"/v1/sessions/a/{path}".rstrip("/")
                response = await client.request(method, where, json=body, headers=_as("other"))
                assert response.status_code == 404, (method, path, response.text)
            await client.post("/v1/sessions", json=opening | {"content": "Of ", "final": True}, headers=_as("other"))
            finish = await client.post("/v1/sessions/a/finish", json={}, headers=_as("acme"))
            assert finish.json()["context_tokens"] == 4 and finish.json()["session_id"] == "a"
            for tenant, prompt in (("acme", "The "), ("other", "Of ")):
                output = await client.get("/v1/sessions/a/output", headers=_as(tenant))
                events = [json.loads(line[6:]) for line in output.text.splitlines() if line.startswith("data: ")]
                text = "".join(event["token"]["text"] for event in events if "token" in event)
                assert text == one.expected(prompt, 4)
            await eventually(one.behind.is_empty)

    run(test)


def test_kv_is_not_shared_between_tenants(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.json", {"acme": {}, "other": {}})

    async def test() -> None:
        async with http_world(Sizes(keys=keys)) as one, one.client() as client:
            cached = []
            for tenant in ("acme", "acme", "other", "other"):
                body = TEXT | {"prompt": "a prompt of several blocks, the same for both"}
                answer = (await client.post("/v1/completions", json=body, headers=_as(tenant))).json()
                cached.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
            assert cached[0] == cached[2] == 0 and cached[1] == cached[3] >= 40

    run(test)


def test_limits_are_429_with_a_time_to_come_back(tmp_path: Path) -> None:
    keys = write_keys(
        tmp_path / "keys.json",
        {"streams": {"max_streams": 2}, "tokens": {"tokens_per_minute": 6}, "requests": {"requests_per_minute": 1}},
    )

    async def test() -> None:
        async with http_world(Sizes(keys=keys)) as one, one.client() as client:

            async def ask(tenant: str, **more: Any) -> httpx2.Response:
                return await client.post("/v1/completions", json=TEXT | more, headers=_as(tenant))

            for name in ("a", "b"):
                await client.post("/v1/sessions", json={"session_id": name}, headers=_as("streams"))
            full = await ask("streams")
            assert full.status_code == 429 and "open streams" in full.text
            assert int(full.headers["Retry-After"]) >= 1
            assert (await client.delete("/v1/sessions/a", headers=_as("streams"))).status_code == 204
            assert (await ask("streams")).status_code == 200
            assert (await ask("tokens")).status_code == 200  # 2 + 4
            spent = await ask("tokens")
            assert spent.status_code == 429 and spent.json()["error"]["type"] == "rate_limit_error"
            assert 5 < int(spent.headers["Retry-After"]) <= 11
            assert (await ask("requests")).status_code == 200
            for path in ("/v1/completions", "/v1/models", "/v1/nothing"):
                response = await client.post(path, json=TEXT, headers=_as("requests"))
                assert response.status_code == 429 and int(response.headers["Retry-After"]) > 50
            assert (await client.get("/health")).status_code == 200

    run(test)


def test_web_sockets_need_a_key_too(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.json", {"acme": {"requests_per_minute": 1}})

    async def test() -> None:
        async with http_world(Sizes(keys=keys)) as one:
            url = f"ws://127.0.0.1:{one.port}/v1/stream"
            with pytest.raises(InvalidStatus, match="401"):
                async with connect(url):
                    pass
            async with connect(url, additional_headers=_as("acme")) as socket:
                await socket.send(json.dumps({"open": {"content": "hi", "final": True, "params": {"max_tokens": 4}}}))
                events = [json.loads(message) async for message in socket]
            text = "".join(event["token"]["text"] for event in events if "token" in event)
            assert text == one.expected("hi", 4)
            with pytest.raises(InvalidStatus, match="429") as refused:
                async with connect(url, additional_headers=_as("acme")):
                    pass
            assert int(refused.value.response.headers["Retry-After"]) > 50

    run(test)


def test_pages_of_other_sites_need_leave(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.json", {"acme": {}})
    site = "https://app.example"
    ask = {"Origin": site, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}

    async def test() -> None:
        async with http_world(Sizes(keys=keys)) as one, one.client() as client:
            response = await client.options("/v1/completions", headers=ask)
            assert response.status_code == 401
            answer = await client.post("/v1/completions", json=TEXT, headers={"Origin": site} | _as("acme"))
            for one_response in (response, answer):
                assert not [name for name in one_response.headers if name.lower().startswith("access-control")]
        config = HttpConfig(port=0, cors_origins=(site,))
        async with http_world(Sizes(keys=keys), config) as one, one.client() as client:
            response = await client.options("/v1/completions", headers=ask)
            assert response.status_code == 200 and response.headers["Access-Control-Allow-Origin"] == site
            answer = await client.post("/v1/completions", json=TEXT, headers={"Origin": site} | _as("acme"))
            assert answer.status_code == 200 and answer.headers["Access-Control-Allow-Origin"] == site
            refused = await client.post("/v1/completions", json=TEXT, headers={"Origin": site})
            assert refused.status_code == 401 and refused.headers["Access-Control-Allow-Origin"] == site
            other = await client.options("/v1/completions", headers=ask | {"Origin": "https://evil.example"})
            assert other.status_code == 400 and "Access-Control-Allow-Origin" not in other.headers
            url = f"ws://127.0.0.1:{one.port}/v1/stream"
            async with connect(url, additional_headers=_as("acme"), origin=site):
                pass
            with pytest.raises(InvalidStatus, match="403"):
                async with connect(url, additional_headers=_as("acme"), origin="https://evil.example"):
                    pass

    run(test)
