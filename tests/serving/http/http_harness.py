"""An HTTP server on a free port over a fake engine, or over the tiny model."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2

from s2l_jax.models.chat import ChatTemplate
from s2l_jax.models.tokenizer import ByteTokenizer
from s2l_jax.orchestrator.orchestrator import Orchestrator
from serving.assembly import assemble
from serving.config import ServeConfig
from serving.http.server import HttpConfig, HttpServer
from tests.serving.harness import TIMEOUT_S, Sizes, World, world

TEMPLATE = ChatTemplate(
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@dataclass(frozen=True)
class HttpWorld:
    """A running HTTP server and what is behind it; `grpc` is None over the tiny model."""

    port: int
    server: HttpServer
    orchestrator: Orchestrator
    grpc: World | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def behind(self) -> World:
        assert self.grpc is not None
        return self.grpc

    def client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url=self.url, timeout=TIMEOUT_S)

    def expected(self, prompt: str, max_tokens: int) -> str:
        """What a fresh engine answers greedily."""
        return self.behind.expected(prompt, max_tokens)


@contextlib.asynccontextmanager
async def http_world(
    sizes: Sizes | None = None, config: HttpConfig | None = None, template: ChatTemplate | None = TEMPLATE
) -> AsyncIterator[HttpWorld]:
    """Both servers in this event loop, over a fake engine whose greedy output is known."""
    async with world(sizes) as one:
        model = one.server._model
        server = HttpServer(
            one.orchestrator, model, ByteTokenizer(), template, config or HttpConfig(port=0), tenants=one.tenants
        )
        port = await server.start()
        try:
            yield HttpWorld(port, server, one.orchestrator, one)
        finally:
            await server.stop()


@contextlib.contextmanager
def tiny_world(cache_dir: Path) -> Iterator[HttpWorld]:
    """A server of the tiny model in a thread, for blocking clients.

    Args:
      cache_dir: keeps executables, so that only the first run compiles.
    """
    sizes = {"max_model_len": 256, "kv_blocks": 64, "token_budget": 16, "max_batch": 4, "max_sessions": 8}
    assembly = assemble(
        ServeConfig(
            model="tiny-random",
            host_kv_gib=0.0,
            preemption="recompute",
            cache_dir=cache_dir,
            profile_dir=cache_dir / "profiles",
            **sizes,
        )
    )
    started: list[HttpWorld] = []
    is_ready = threading.Event()
    loop = asyncio.new_event_loop()
    is_over = asyncio.Event()

    async def serve() -> None:
        server = HttpServer(assembly.orchestrator, assembly.model, assembly.tokenizer, TEMPLATE, HttpConfig(port=0))
        started.append(HttpWorld(await server.start(), server, assembly.orchestrator))
        is_ready.set()
        await is_over.wait()
        await server.stop()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="test-http-server")
    thread.start()
    try:
        assert is_ready.wait(TIMEOUT_S)
        yield started[0]
    finally:
        loop.call_soon_threadsafe(is_over.set)
        thread.join(TIMEOUT_S)
        loop.close()
        assembly.orchestrator.close()
