"""SIGSTOP of an engine for a while, then SIGCONT, under load.

`python -m tests.faults.stops --model tiny-random`. Sessions may neither hang nor see anything of what the engine
remembers when it goes on.
"""

import argparse
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.faults.outage import outages
from tests.faults.processes import Deployment, Sizes
from tests.faults.verdict import Verdict


def stop_and_go(d: Deployment) -> tuple[Callable[[], None], Callable[[], None]]:
    engine = d.engines[0]
    return lambda: engine.send(signal.SIGSTOP), lambda: engine.send(signal.SIGCONT)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-random", help="`fake` is the fake engine")
    parser.add_argument("--seconds", type=float, nargs="+", default=[2.0, 20.0])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sizes = Sizes(None if options.model == "fake" else options.model)
    verdict = Verdict(2 * len(options.seconds))
    with tempfile.TemporaryDirectory(prefix="s2l-faults-") as name:
        outages(verdict, "stopped", sizes, Path(name), options.seconds, stop_and_go, seed=options.seed)
    verdict.end()


if __name__ == "__main__":
    main()
