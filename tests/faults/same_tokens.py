"""Two prefill and two generate engines, each in a process of its own, answer as one engine for all does.

`python -m tests.faults.same_tokens --model tiny-random`: streams, updates and shared beginnings, from many clients at
once, with pools so small that engines of one side, then of the other, take blocks away from sessions.
"""

import argparse
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from serving.client import Client
from tests.faults.load import Script, answer, known_answers, make_scripts
from tests.faults.processes import Sizes, deployment
from tests.faults.verdict import Verdict

CLIENTS = 16
_SCARCE_SHARE = 0.55


SIDES = ("prefill", "generate")


def compare(
    sizes: Sizes,
    scripts: Sequence[Script],
    folder: Path,
    verdict: Verdict,
    rounds: int,
    scarce: Sequence[tuple[str, ...]] = tuple((side,) for side in SIDES),
) -> None:
    """Runs all scripts on 2 + 2 engines, each time with the pools of other sides scarce."""
    expected = known_answers(sizes, scripts, folder)
    least = sizes.max_model_len // sizes.block_size
    small = replace(sizes, kv_blocks=max(least, int(sizes.kv_blocks * _SCARCE_SHARE)))
    for sides in scarce:
        prefill, generate = (small if side in sides else sizes for side in SIDES)
        engines = [prefill, generate, generate]
        with (
            deployment(
                "prefill", ["prefill", "generate", "generate"], prefill, engine_sizes=engines, folder=folder
            ) as d,
            Client(d.target, timeout_s=120) as client,
            ThreadPoolExecutor(CLIENTS) as pool,
        ):
            tasks = [
                (number, pool.submit(answer, client, script, 0.01))
                for _ in range(rounds)
                for number, script in enumerate(scripts)
            ]
            wrong = [number for number, task in tasks if task.result().ids != expected[number]]
            d.wait_empty()
            stats = client.stats()
            evictions = sum(stats.preemptions[name] for name in ("swap", "recompute", "drop"))
            text = f"{len(tasks)} sessions, {len(wrong)} differ; {evictions} evictions, {stats.steps} steps"
            defects = d.tracebacks()
            is_good = not wrong and evictions > 0 and not defects
            verdict.case(f"little memory for {' and '.join(sides)}", "; ".join([text, *defects]), is_good)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-random", help="`fake` is the fake engine")
    parser.add_argument("--scripts", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sizes = Sizes(None if options.model == "fake" else options.model, host_blocks=True)
    verdict = Verdict(2)
    with tempfile.TemporaryDirectory(prefix="s2l-faults-") as folder:
        compare(sizes, make_scripts(options.scripts, options.seed), Path(folder), verdict, options.rounds)
    verdict.end()


if __name__ == "__main__":
    main()
