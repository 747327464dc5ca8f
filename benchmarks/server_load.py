"""Does a server stay flat and quick under thousands of open streams?

    python benchmarks/server_load.py                   2,000 streams for 15 minutes
    python benchmarks/server_load.py --minutes 5

Streams over gRPC take their context in pieces over a minute, like a crawl, then a few tokens, and are opened again;
beside them come plain requests over HTTP, whole and as events. The model is tiny-random, so that what is measured is
the server. Server and clients are processes of this machine and share its cores.

Reported, after a warm-up:

- memory: slope of the server's resident memory, least squares over all readings;
- errors: whatever came that was not asked for;
- overhead: CPU time of the server's threads but for the model's computation; the engine's thread counts but for its
  time inside of the engine. Outputs are short for two minutes and three times as long for the next two, and so on,
  while all else stays the same. So a line through all readings says what a token costs (its slope), and what streams,
  pieces of context and requests cost by themselves (where it begins);
- lag of the event loop: by how much it is late for something due every 10 ms.

Writes server_load.json.
"""

import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import click
import numpy as np
import uvloop

from s2l_jax.core.errors import S2LError
from serving.client import AsyncClient, SamplingParams

READING_S = 5.0
STREAM_S = 60.0
PHASE_S = 120.0
PHASES = (0.5, 1.5)  # of `--tokens`
PIECES = 4
REQUEST_TOKENS_PER_STREAM_TOKEN = 2
STREAMS_PER_CONNECTION = 250
COMPUTE_THREADS = ("tf_", "eigen", "XLA", "jax", "pjrt", "llvm", "tfrt")
MAIN = "server_load_server.py"


@dataclass
class Tally:
    """What clients saw."""

    streams: int = 0
    requests: int = 0
    tokens: int = 0
    errors: Counter[str] = field(default_factory=Counter)


def output_tokens(tokens: int) -> int:
    """How long an output is now."""
    return round(tokens * PHASES[int(time.monotonic() / PHASE_S) % len(PHASES)])


async def keep_stream(client: AsyncClient, tally: Tally, chance: random.Random, tokens: int) -> None:
    """Opens one stream after the other, for ever."""
    await asyncio.sleep(chance.uniform(0, STREAM_S))
    while True:
        try:
            params = SamplingParams(max_tokens=output_tokens(tokens), ignore_eos=True)
            async with client.session(params) as session:
                for _ in range(PIECES):
                    await session.append(text(chance))
                    await asyncio.sleep(chance.uniform(0.5, 1.5) * STREAM_S / PIECES)
                await session.finish()
                result = await session.result()
            tally.tokens += len(result.token_ids)
            tally.streams += 1
        except S2LError as error:
            tally.errors[f"stream: {error.status} {error}"] += 1
            await asyncio.sleep(1.0)


async def send_requests(url: str, tally: Tally, chance: random.Random, per_s: float, tokens: int) -> None:
    """Sends plain requests, at random times, for ever."""
    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as running:
        while True:
            await asyncio.sleep(chance.expovariate(per_s))
            running.create_task(send_request(http, url, tally, chance, output_tokens(tokens)))


async def send_request(http: aiohttp.ClientSession, url: str, tally: Tally, chance: random.Random, tokens: int) -> None:
    body = {"prompt": text(chance), "max_tokens": tokens, "ignore_eos": True, "stream": chance.random() < 0.5}
    try:
        async with http.post(f"{url}/v1/completions", json=body) as answer:
            data = await answer.text()
            if answer.status != 200 or '"error"' in data:
                tally.errors[f"request: {answer.status} {data[:200]}"] += 1
                return
        tally.requests += 1
        tally.tokens += tokens
    except (aiohttp.ClientError, TimeoutError) as error:
        tally.errors[f"request: {error!r}"] += 1


def text(chance: random.Random) -> str:
    return "".join(chance.choices("abcdefgh ", k=chance.randrange(20, 60)))


class Server:
    """The server's process."""

    def __init__(self, sessions: int) -> None:
        program = Path(__file__).with_name(MAIN)
        self._process = subprocess.Popen(
            [sys.executable, program, str(sessions)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ports = self._read()

    def report(self) -> dict[str, Any]:
        """About the time since the last one."""
        assert self._process.stdin is not None
        self._process.stdin.write("report\n")
        self._process.stdin.flush()
        return self._read()

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


async def load(
    server: Server, streams: int, per_s: float, tokens: int, minutes: float, warm_up_s: float
) -> list[dict[str, Any]]:
    """Loads the server, and returns its readings after the warm-up."""
    tally, chance = Tally(), random.Random(1)
    url = f"http://127.0.0.1:{server.ports['http']}"
    connections = [
        AsyncClient(f"127.0.0.1:{server.ports['grpc']}") for _ in range(-(-streams // STREAMS_PER_CONNECTION))
    ]
    work = [keep_stream(connections[i % len(connections)], tally, random.Random(i), tokens) for i in range(streams)] + [
        send_requests(url, tally, chance, per_s, REQUEST_TOKENS_PER_STREAM_TOKEN * tokens)
    ]
    tasks = [asyncio.create_task(one) for one in work]
    began_s, readings = time.monotonic(), []
    while (passed_s := time.monotonic() - began_s) < warm_up_s + minutes * 60:
        await asyncio.sleep(READING_S)
        reading = await asyncio.to_thread(server.report)
        late_ms = np.array(reading["late_ms"])
        if passed_s >= warm_up_s:
            readings.append(reading | {"at_s": passed_s})
        median_ms, p99_ms = np.percentile(late_ms, [50, 99])
        click.echo(
            f"{passed_s:5.0f} s{' ' if passed_s >= warm_up_s else '*'} {reading['sessions']:5d} open  "
            f"{reading['rss_mib']:7.1f} MiB  lag P50 {median_ms:5.1f} P99 {p99_ms:6.1f} max {late_ms.max():6.1f} ms  "
            f"{reading['tokens'] / READING_S:5.0f} tokens/s  overhead {overhead_s(reading) / READING_S:.2f} cores  "
            f"{sum(tally.errors.values())} errors"
        )
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for one in results:
        if not isinstance(one, asyncio.CancelledError):
            tally.errors[f"client: {one!r}"] += 1
    for client in connections:
        await client.close()
    click.echo(f"{tally.streams} streams and {tally.requests} requests came to their ends, {tally.tokens} tokens")
    for error, times in tally.errors.most_common(10):
        click.echo(f"  {times} x {error}")
    readings[-1]["errors"] = dict(tally.errors)
    return readings


def overhead_s(reading: dict[str, Any]) -> float:
    """CPU time but for the model's computation."""
    spent_s: float = sum(s for name, s in reading["cpu_s"].items() if not name.startswith(COMPUTE_THREADS))
    return spent_s - reading["engine_inside_s"]


def overhead(readings: list[dict[str, Any]]) -> dict[str, float]:
    """What tokens cost, and what all else does: a line through the readings."""
    tokens = np.array([one["tokens"] for one in readings], float)
    spent_s = np.array([overhead_s(one) for one in readings])
    found = {"us_per_token_all_included": 1e6 * float(spent_s.sum() / max(1.0, tokens.sum()))}
    if tokens.min() < 0.7 * tokens.max():  # else there is no line
        (slope_s, rest_s), errors = np.polyfit(tokens, spent_s, 1, cov=True)
        found["us_per_token"] = 1e6 * float(slope_s)
        found["us_per_token_standard_error"] = 1e6 * float(errors[0, 0]) ** 0.5
        found["cores_without_tokens"] = float(rest_s) / READING_S
    return found


@click.command(help=__doc__)
@click.option("--streams", default=2000, show_default=True)
@click.option("--requests-per-s", default=5.0, show_default=True)
@click.option(
    "--tokens", default=32, show_default=True, help="Of a stream's output, on average; requests have twice as many."
)
@click.option("--minutes", default=15.0, show_default=True, help="After the warm-up.")
@click.option("--warm-up-s", default=90.0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/server_load"), show_default=True)
def main(streams: int, requests_per_s: float, tokens: int, minutes: float, warm_up_s: float, out: Path) -> None:
    server = Server(streams + 500)
    readings = asyncio.run(
        load(server, streams, requests_per_s, tokens, minutes, warm_up_s), loop_factory=uvloop.new_event_loop
    )
    server.stop()
    late_ms = np.concatenate([one["late_ms"] for one in readings])
    at_min = np.array([one["at_s"] for one in readings]) / 60
    slope = float(np.polyfit(at_min, [one["rss_mib"] for one in readings], 1)[0])
    cpu: Counter[str] = Counter()
    for one in readings:
        cpu.update(one["cpu_s"])
    seconds = len(readings) * READING_S
    result = {
        "streams": streams,
        "minutes": minutes,
        "memory_mib_per_min": slope,
        "errors": readings[-1]["errors"],
        "overhead": overhead(readings),
        "loop_lag_ms": {f"P{p}": float(np.percentile(late_ms, p)) for p in (50, 90, 99, 99.9, 100)},
        "tokens_per_s": sum(one["tokens"] for one in readings) / seconds,
        "cpu_share": {name: round(spent / seconds, 4) for name, spent in cpu.most_common(12)},
        "engine_share": {
            "thread": sum(one["engine_thread_s"] for one in readings) / seconds,
            "inside": sum(one["engine_inside_s"] for one in readings) / seconds,
        },
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "server_load.json").write_text(json.dumps(result, indent=2))
    click.echo(json.dumps(result, indent=2))


if __name__ == "__main__":
    sys.exit(main())
