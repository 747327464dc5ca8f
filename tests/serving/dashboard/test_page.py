"""The live page brings all it needs, and asks for what there is."""

import asyncio
import json
import re
from importlib.resources import files
from pathlib import Path

import httpx2

from s2l_jax.models.tokenizer import ByteTokenizer
from serving.http.dashboard import PAGE_PATHS
from serving.http.server import HttpConfig, HttpServer
from serving.metrics.readings import ServerFacts
from serving.tenants.tenants import Tenants
from serving.watch.observation import observe
from tests.serving.harness import TIMEOUT_S, run, world
from tests.serving.metrics.test_scrape import watched_world

FOLDER = files("serving.dashboard")
HTML, SCRIPT, STYLE = ((FOLDER / f"page.{ending}").read_text("utf-8") for ending in ("html", "js", "css"))


def test_the_page_is_served_whole_and_may_load_nothing_from_elsewhere() -> None:
    async def scenario() -> None:
        async with watched_world() as (_, _, client):
            for path, kind in zip(PAGE_PATHS, ("html", "css", "javascript"), strict=True):
                answer = await client.get(path)
                assert answer.status_code == 200
                assert kind in answer.headers["content-type"]
                assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert (await client.get("/dashboard/page.py")).status_code == 404

    run(scenario)
    for text in (HTML, SCRIPT, STYLE):
        assert "http:" not in text and "https:" not in text and "@import" not in text
    assert set(re.findall(r'(?:src|href)="([^"]+)"', HTML)) == set(PAGE_PATHS[1:])
    assert not re.search(r"innerHTML|document\.write|\beval\b|style=|onclick=", HTML + SCRIPT)


def test_the_script_uses_elements_colors_and_fields_that_exist() -> None:
    elements = set(re.findall(r'id="([\w-]+)"', HTML))
    used = set(re.findall(r'(?:byId|surface|legend|drawStack|drawDistribution)\("([\w-]+)"', SCRIPT))
    assert used <= elements
    assert elements <= {*used, "device", "host", "sessions", "final", "open", "ttft-final", "ttft-open"}
    colors = set(re.findall(r"--([\w-]+):", STYLE))
    assert set(re.findall(r'color\("(\w+)"\)', SCRIPT)) | {"held", "cached", "swapped", "backups"} <= colors
    assert {"arriving", "prefilling", "waiting", "decoding"} <= colors

    async def scenario() -> None:
        async with watched_world() as (_, _, client):
            state = (await client.get("/dashboard/state?window_s=30")).json()
            for path in set(re.findall(r"\bstate\.(\w+(?:\.\w+)?)", SCRIPT)):
                here = state
                for name in path.split("."):
                    if isinstance(here, list):
                        break
                    assert name in here, path
                    here = here[name]
            assert state["window_s"] == 30
            assert (await client.get("/dashboard/state?window_s=5")).status_code == 400

    run(scenario)


def test_a_crowd_of_viewers_gets_one_state_for_half_a_second() -> None:
    async def scenario() -> None:
        async with watched_world() as (_, _, client):
            answers = [(await client.get("/dashboard/state")).json() for _ in range(2)]
            assert answers[0] == answers[1]
            await asyncio.sleep(0.5)
            assert (await client.get("/dashboard/state")).json()["now_s"] > answers[0]["now_s"]

    run(scenario)


def test_with_keys_the_page_is_open_and_its_state_is_not(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world() as w:
            seen = observe(w.orchestrator, ServerFacts("fake"))
            tenants = Tenants(w.orchestrator, keys)
            server = HttpServer(
                w.orchestrator, w.server._model, ByteTokenizer(), None, HttpConfig(port=0), seen, tenants
            )
            port = await server.start()
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT_S) as client:
                assert (await client.get("/dashboard")).status_code == 200
                assert (await client.get("/dashboard/state")).status_code == 401
                assert (await client.get("/metrics")).status_code == 401
                mine = {"Authorization": "Bearer " + KEYS["acme"]}
                other = {"Authorization": "Bearer " + KEYS["umbra"]}
                body = {"session_id": "mine", "content": "abc"}
                assert (await client.post("/v1/sessions", json=body, headers=mine)).status_code == 201
                names = [
                    [
                        row["id"]
                        for row in (await client.get("/dashboard/state", headers=who)).json()["sessions"]["rows"]
                    ]
                    for who in (mine, other)
                ]
                assert names == [["mine"], [""]]
            await server.stop()

    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"tenants": {name: {"keys": [key]} for name, key in KEYS.items()}}))
    run(scenario)


KEYS = {"acme": "a" * 32, "umbra": "u" * 32}
