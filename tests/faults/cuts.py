"""The link to an engine is cut for a while, and healed, under load.

`python -m tests.faults.cuts --model tiny-random`. The engine lives in a network namespace of its own, whose interface
is taken down; that needs root. Where it cannot be done, or with `--forward`, a process in between stops forwarding,
without closing anything.
"""

import argparse
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.faults.namespaces import veth_links, why_not
from tests.faults.outage import outages
from tests.faults.processes import Deployment, Sizes
from tests.faults.verdict import Verdict


def cut_and_heal(d: Deployment) -> tuple[Callable[[], None], Callable[[], None]]:
    return d.links[0].cut, d.links[0].heal


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-random", help="`fake` is the fake engine")
    parser.add_argument("--seconds", type=float, nargs="+", default=[2.0, 20.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--forward", action="store_true", help="do not try network namespaces")
    options = parser.parse_args()
    sizes = Sizes(None if options.model == "fake" else options.model)
    verdict = Verdict(2 * len(options.seconds))
    reason = "--forward says so" if options.forward else why_not()
    verdict.say("links between network namespaces" if reason is None else f"links are forwarded, since {reason}")
    with tempfile.TemporaryDirectory(prefix="s2l-faults-") as name, ExitStack() as stack:
        veths = [] if reason is not None else stack.enter_context(veth_links(1))
        seconds = options.seconds
        outages(verdict, "cut off", sizes, Path(name), seconds, cut_and_heal, seed=options.seed, veths=veths)
    verdict.end()


if __name__ == "__main__":
    main()
