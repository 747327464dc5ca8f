"""A server to be fuzzed, in a process of its own, and watched as `s2l serve` is.

It prints its ports, and ends with its input.
"""

import asyncio
import json
import sys

from s2l_jax.models.tokenizer import ByteTokenizer
from serving.http.server import HttpConfig, HttpServer
from serving.metrics.readings import ServerFacts
from serving.watch.observation import observe
from tests.serving.harness import Sizes, world
from tests.serving.http.http_harness import TEMPLATE

MAX_SESSIONS = 64
IDLE_TIMEOUT_S = 0.3

SIZES = Sizes(
    max_sessions=MAX_SESSIONS,
    num_blocks=1024,
    host_blocks=256,
    idle_timeout_s=IDLE_TIMEOUT_S,
    open_timeout_s=IDLE_TIMEOUT_S,
    max_message_bytes=1 << 20,
)


async def main() -> None:
    """Serves until standard input is closed."""
    async with world(SIZES) as one:
        seen = observe(one.orchestrator, ServerFacts("fake"))
        server = HttpServer(
            one.orchestrator, one.server._model, ByteTokenizer(), TEMPLATE, HttpConfig(port=0), seen, one.tenants
        )
        port = await server.start()
        try:
            with seen.history.sampling():
                print(json.dumps({"grpc": one.port, "http": port}), flush=True)
                await asyncio.to_thread(sys.stdin.read)
        finally:
            await server.stop()


if __name__ == "__main__":
    asyncio.run(main())
