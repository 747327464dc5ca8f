"""`s2l trace record`: live traffic into a trace."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console


@click.command(
    epilog="""\b
Example:
  s2l serve --port 9000 &
  s2l trace record --to grpc://127.0.0.1:9000 --listen 127.0.0.1:9001 --out out/live.jsonl
  s2l ask 'What is this about?' --context README.md --target grpc://127.0.0.1:9001   # elsewhere"""
)
@click.option("--to", "target", required=True, metavar="grpc://HOST:PORT", help="The server.")
@click.option("--listen", default="127.0.0.1:9001", show_default=True, metavar="[HOST]:PORT", help="Address to offer.")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Trace; .gz compresses it.")
def record(target: str, listen: str, out: Path) -> None:
    """Record live traffic: stand before a server and write what its clients send.

    Clients talk to --listen as they would to the server; everything is passed through. Ctrl-C ends the recording: the
    trace holds every session that has had its answer; others are left out and counted. It holds what clients sent, word
    for word: `s2l trace convert --tokens-per-char 0.25` keeps nothing but sizes.
    """
    from workloads.record.proxy import RecordingProxy
    from workloads.record.recorder import Recorded, Recorder
    from workloads.trace import Header

    console = Console(stderr=True)
    header = Header(
        "recorded", f"live traffic to {target}", {"recorded_at": datetime.now(UTC).isoformat(timespec="seconds")}
    )
    status = console.status("")

    def show(counts: Recorded) -> None:
        status.update(f"{counts.finished} finished, {counts.open} open, {counts.left_out} left out")

    async def run(recorder: Recorder) -> None:
        from serving.grpc.server import wait_for_signal

        proxy = RecordingProxy(target, recorder)
        address = f"0.0.0.0{listen}" if listen.startswith(":") else listen
        port = await proxy.start(address)
        host = address.rpartition(":")[0]
        click.echo(f"Recording grpc://{host}:{port}, which is {target}; ctrl-C ends and writes {out}")
        with status:
            await wait_for_signal()
            await proxy.stop()

    with Recorder(out, header, show) as recorder:
        asyncio.run(run(recorder))
    counts = recorder.counts
    click.echo(f"{out}: {counts.finished} sessions; left out because they had not finished: {counts.left_out}")
