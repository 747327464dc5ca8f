"""`s2l demo`: the whole story on one machine."""

import signal
import sys
from pathlib import Path

import click
from rich.console import Console

_EXIT_FAILED = 3
_EXIT_TERMINATED = 143


@click.command(epilog="Example: s2l demo --recorded --qps 0.1 --out out/slow")
@click.option("--out", default=Path("out/demo"), show_default=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--model", default="smollm2-135m", show_default=True, help="Name (see s2l models list) or directory.")
@click.option("--qps", default=0.2, show_default=True, help="Questions per second.")
@click.option("--seed", default=7, show_default=True, help="For the site's delays and the arrivals.")
@click.option("--recorded", is_flag=True, help="Replay the crawl that comes with the package instead of crawling.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many questions.")
def demo(out: Path, model: str, qps: float, seed: int, recorded: bool, limit: int | None) -> None:
    """Crawl real documentation, stream it into a real model, and compare with waiting for all of it.

    Crawls the Python documentation from a local site with the delays of the real web, starts `s2l serve`, replays the
    crawl against it twice, streaming and waiting, and shows how long users wait for the first word of their answer.
    Takes about four minutes on two cores.
    """
    from workloads.demo.demo import DemoConfig, run_demo

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_EXIT_TERMINATED))  # so that the server is stopped, too
    config = DemoConfig(out, model, qps, seed, recorded, limit)
    if not run_demo(config, Console()):
        raise SystemExit(_EXIT_FAILED)
