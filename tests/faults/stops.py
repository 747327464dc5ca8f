"""SIGSTOP of an engine for a while, then SIGCONT, under load.

`python -m tests.faults.stops --model tiny-random`. Sessions may neither hang nor see anything of what the engine
remembers when it goes on.
"""

import argparse
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.load import Load, known_answers, make_scripts
from tests.faults.outage import CLIENTS, SETTLE_S, outages
from tests.faults.processes import Deployment, Sizes, deployment
from tests.faults.verdict import Verdict


def stop_and_go(d: Deployment) -> tuple[Callable[[], None], Callable[[], None]]:
    engine = d.engines[0]
    return lambda: engine.send(signal.SIGSTOP), lambda: engine.send(signal.SIGCONT)


def stop_server(sizes: Sizes, folder: Path, verdict: Verdict, duration_s: float, seed: int) -> None:
    """Stops the server itself, with an engine in it: what the others do meanwhile counts for nothing."""
    scripts = make_scripts(16, seed)
    answers = known_answers(sizes, scripts, folder)
    with deployment("prefill", ["generate"], sizes, folder=folder) as d:
        load = Load(d.target, scripts, answers)
        load.start(CLIENTS)
        time.sleep(SETTLE_S)
        d.server.send(signal.SIGSTOP)
        time.sleep(duration_s)
        d.server.send(signal.SIGCONT)
        joined_s = d.wait_joined()
        time.sleep(SETTLE_S)
        load.stop()
        d.wait_empty()
        outcomes = ", ".join(f"{count} {name}" for name, count in sorted(load.outcomes.items()))
        text = f"all at work {joined_s:.1f} s after the end; longest gap {load.longest_gap_s:.2f} s; {outcomes}"
        defects = [*load.defects, *d.tracebacks()]
        verdict.case(f"server stopped for {duration_s:g} s", "; ".join([text, *defects[:3]]), not defects)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-random", help="`fake` is the fake engine")
    parser.add_argument("--seconds", type=float, nargs="+", default=[2.0, 20.0])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sizes = Sizes(None if options.model == "fake" else options.model)
    verdict = Verdict(3 * len(options.seconds))
    with tempfile.TemporaryDirectory(prefix="s2l-faults-") as name:
        outages(verdict, "stopped", sizes, Path(name), options.seconds, stop_and_go, seed=options.seed)
        for duration_s in options.seconds:
            stop_server(sizes, Path(name), verdict, duration_s, options.seed)
    verdict.end()


if __name__ == "__main__":
    main()
