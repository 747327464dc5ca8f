"""A server to be fuzzed, in a process of its own. It prints its ports, and ends with its input."""

import asyncio
import json
import sys

from tests.serving.harness import Sizes
from tests.serving.http.http_harness import http_world

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
    async with http_world(SIZES) as one:
        print(json.dumps({"grpc": one.behind.port, "http": one.port}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
