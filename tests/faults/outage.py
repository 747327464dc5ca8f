"""One engine out of reach for a while, under load: what its sessions see, and when it is at work again."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from serving.client import Client
from tests.faults.load import Load, Script, known_answers, make_scripts
from tests.faults.namespaces import VethLink
from tests.faults.processes import Deployment, Sizes, deployment
from tests.faults.verdict import Verdict

CLIENTS = 6
OTHERS = {"prefill": "generate", "generate": "prefill"}
"""The role of the server's own engine, for each of the one that is out of reach."""

SETTLE_S = 0.4
_LOOK_S = 0.01
_JOIN_S = 60.0


def outage(
    d: Deployment,
    begin: Callable[[], None],
    end: Callable[[], None],
    duration_s: float,
    scripts: Sequence[Script],
    answers: Sequence[Sequence[int]],
) -> tuple[str, bool]:
    """Keeps the only remote engine out of reach for `duration_s`.

    Returns:
      What was seen, and whether every session got the right answer and nothing was left behind.
    """
    load = Load(d.target, scripts, answers)
    load.start(CLIENTS)
    time.sleep(SETTLE_S)
    usual_s, load.longest_gap_s = load.longest_gap_s, 0.0
    begin()
    begin_s = time.monotonic()
    lost_s = None
    with Client(d.target, timeout_s=20) as client:
        while (passed_s := time.monotonic() - begin_s) < duration_s:
            if lost_s is None and client.stats().total_blocks == d.blocks:
                lost_s = passed_s
            time.sleep(_LOOK_S)
    end()
    joined_s = d.wait_joined(_JOIN_S)
    time.sleep(SETTLE_S)
    longest_s = load.longest_gap_s
    load.stop()
    d.wait_empty()
    noticed = (
        "not noticed" if lost_s is None else f"given up after {lost_s:.1f} s, at work {joined_s:.1f} s after the end"
    )
    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(load.outcomes.items()))
    text = f"{noticed}; longest gap {longest_s:.2f} s ({usual_s:.2f} s before); {outcomes}"
    defects = [*load.defects, *d.tracebacks()]
    return "; ".join([text, *defects[:3]]), not defects and load.outcomes["right"] > 0


def outages(
    verdict: Verdict,
    what: str,
    sizes: Sizes,
    folder: Path,
    durations_s: Sequence[float],
    begin_end: Callable[[Deployment], tuple[Callable[[], None], Callable[[], None]]],
    *,
    seed: int = 0,
    victims: Sequence[str] = tuple(OTHERS),
    veths: Sequence[VethLink] = (),
) -> None:
    """Tries each duration with an engine of each role.

    Args:
      verdict: is told.
      what: happens to the engine.
      sizes: of engines.
      folder: for logs.
      durations_s: of outages.
      begin_end: how an outage of a deployment's engine begins and ends.
      seed: of what clients do.
      victims: roles.
      veths: the way to the engine, if it is in a namespace.
    """
    scripts = make_scripts(16, seed)
    answers = known_answers(sizes, scripts, folder)
    for victim in victims:
        with deployment(OTHERS[victim], [victim], sizes, folder=folder, veths=veths) as d:
            for duration_s in durations_s:
                text, is_good = outage(d, *begin_end(d), duration_s, scripts, answers)
                verdict.case(f"{victim} {what} for {duration_s:g} s", text, is_good)
