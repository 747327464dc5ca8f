"""Profiles of JAX are taken on demand, where the server was started for it, one at a time."""

import asyncio
from pathlib import Path

import httpx2

from s2l_jax.models.tokenizer import ByteTokenizer
from serving.http.server import HttpConfig, HttpServer
from serving.metrics.readings import ServerFacts
from serving.watch.observation import observe
from tests.serving.harness import TIMEOUT_S, run, world


def test_takes_a_profile_into_the_directory(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world() as w:
            seen = observe(w.orchestrator, ServerFacts("fake"), profile_dir=tmp_path / "profiles")
            server = HttpServer(w.orchestrator, w.server._model, ByteTokenizer(), None, HttpConfig(port=0), seen)
            port = await server.start()
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT_S) as client:
                assert (await client.post("/debug/profile?seconds=600")).status_code == 400
                first = asyncio.create_task(client.post("/debug/profile?seconds=0.3"))
                while not (tmp_path / "profiles").exists():
                    await asyncio.sleep(0.01)
                assert (await client.post("/debug/profile?seconds=0.3")).status_code == 429
                answer = (await first).json()
            await server.stop()
        assert answer["seconds"] == 0.3
        assert Path(answer["path"]).parent == tmp_path / "profiles"
        assert list(Path(answer["path"]).rglob("*.xplane.pb"))

    run(scenario)


def test_is_not_there_without_a_directory() -> None:
    async def scenario() -> None:
        async with world() as w:
            seen = observe(w.orchestrator, ServerFacts("fake"))
            server = HttpServer(w.orchestrator, w.server._model, ByteTokenizer(), None, HttpConfig(port=0), seen)
            port = await server.start()
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT_S) as client:
                assert (await client.post("/debug/profile")).status_code == 404
            await server.stop()

    run(scenario)
