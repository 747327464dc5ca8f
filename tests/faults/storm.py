"""Random faults under load: engines are killed, stopped, cut off and restarted, one after the other and at once.

`python -m tests.faults.storm --model tiny-random --faults 100 --seed 1`. Three of four engines are fair game; the one
in the server's process stays. Every session must end with the right tokens, or with UNAVAILABLE and a hint when to try
again; no client may hang, no block be left behind, and the server's memory may not grow.
"""

import argparse
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.faults.load import Load, known_answers, make_scripts
from tests.faults.outage import SETTLE_S
from tests.faults.processes import Deployment, Process, Sizes, deployment
from tests.faults.verdict import Verdict

CLIENTS = 8
ROLES = ("prefill", "generate", "generate")
_JOIN_S = 120.0
_REPORT_S = 5.0
_WARM_SHARE = 0.3


@dataclass
class Storm:
    """Faults of one deployment.

    Attributes:
      counts: faults so far, by kind.
      lines: one for each, with its time.
    """

    d: Deployment
    rng: random.Random
    longest_s: float
    counts: Counter[str] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)
    _busy: set[int] = field(default_factory=set)
    _threads: list[threading.Thread] = field(default_factory=list)

    def fault(self) -> str:
        """Begins one, at an engine that has none; it ends by itself. Waits if all have one."""
        while not (free := [index for index in range(len(self.d.engines)) if index not in self._busy]):
            time.sleep(0.01)
        index = self.rng.choice(free)
        kind = self.rng.choice(("kill", "stop", "cut", "restart"))
        short = self.rng.random() < 0.5
        duration_s = self.rng.uniform(0.05, 0.1 * self.longest_s) if short else self.rng.uniform(0, self.longest_s)
        self.counts[kind] += 1
        self._busy.add(index)
        act = {"kill": self._kill, "stop": self._stop, "cut": self._cut, "restart": self._restart}[kind]
        thread = threading.Thread(target=self._run, args=(act, index, duration_s), name=f"fault-{kind}", daemon=True)
        self._threads.append(thread)
        thread.start()
        return f"{kind} {self.d.engines[index].name} for {duration_s:.1f} s"

    def wait(self) -> None:
        """Waits until all have ended."""
        for thread in self._threads:
            thread.join()

    def _run(self, act: Callable[[int, float], None], index: int, duration_s: float) -> None:
        try:
            act(index, duration_s)
        except Exception as error:  # noqa: BLE001 - told at the end
            self.defects.append(f"{self.d.engines[index].name} did not come back: {error!r:.500}")
        finally:
            self._busy.discard(index)

    def _kill(self, index: int, duration_s: float) -> None:
        engine = self.d.engines[index]
        engine.kill()
        time.sleep(duration_s)
        _start(engine)

    def _restart(self, index: int, duration_s: float) -> None:
        engine = self.d.engines[index]
        status = engine.end()
        if status != 0:
            self.defects.append(f"{engine.name} ended with status {status}")
        time.sleep(duration_s)
        _start(engine)

    def _stop(self, index: int, duration_s: float) -> None:
        self.d.engines[index].send(signal.SIGSTOP)
        time.sleep(duration_s)
        self.d.engines[index].send(signal.SIGCONT)

    def _cut(self, index: int, duration_s: float) -> None:
        self.d.links[index].cut()
        time.sleep(duration_s)
        self.d.links[index].heal()


def _start(engine: Process) -> None:
    engine.start()
    _ = engine.port


def storm(
    sizes: Sizes, faults: int, seed: int, longest_s: float, folder: Path, verdict: Verdict, most_mib: float
) -> None:
    """Runs one; `longest_s` is how long a fault lasts at most, `most_mib` by how much the server may grow meanwhile."""
    rng = random.Random(seed)
    scripts = make_scripts(16, seed)
    answers = known_answers(sizes, scripts, folder)
    with deployment("prefill", ROLES, sizes, folder=folder) as d:
        load = Load(d.target, scripts, answers, seed=seed)
        load.start(CLIENTS)
        one = Storm(d, rng, longest_s)
        memory: list[float] = []
        is_over = threading.Event()
        watcher = threading.Thread(target=_watch, args=(d, load, one, memory, is_over, verdict), daemon=True)
        watcher.start()
        for _ in range(faults):
            one.fault()
            time.sleep(rng.uniform(0, 0.2 * longest_s))
        one.wait()
        joined_s = d.wait_joined(_JOIN_S)
        time.sleep(SETTLE_S)
        load.stop()
        is_over.set()
        watcher.join()
        outcomes = ", ".join(f"{count} {name}" for name, count in sorted(load.outcomes.items()))
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(one.counts.items()))
        verdict.case("sessions", f"{kinds}: {outcomes}, longest gap {load.longest_gap_s:.1f} s", not load.defects)
        for defect in load.defects[:20]:
            verdict.say(defect)
        problems = [*one.defects, *d.tracebacks()]
        verdict.case(
            "engines", "; ".join([f"all at work {joined_s:.1f} s after the last fault", *problems]), not problems
        )
        d.wait_empty()
        verdict.case("blocks", "none is held, no session is left", True)
        growth_mib, peak_mib = _growth_mib(memory)
        text = f"the server has {peak_mib:.0f} MiB at most, and grew by {growth_mib:.1f} MiB once it was warm"
        verdict.case("memory", text, growth_mib < most_mib)
        status = d.server.end()
        verdict.case("end", f"the server ends with status {status}", status == 0)


def _watch(
    d: Deployment, load: Load, one: Storm, memory: list[float], is_over: threading.Event, verdict: Verdict
) -> None:
    said_s = time.monotonic()
    while not is_over.wait(0.5):
        memory.append(d.server.rss_mib)
        if time.monotonic() - said_s > _REPORT_S:
            said_s = time.monotonic()
            verdict.say(f"{sum(one.counts.values())} faults, {load.sessions} sessions, server {memory[-1]:.0f} MiB")


def _growth_mib(memory: list[float]) -> tuple[float, float]:
    """How much a straight line through the readings rises once the server is warm, and the highest reading."""
    warm = memory[int(len(memory) * _WARM_SHARE) :]
    if len(warm) < 3:
        return 0.0, max(memory, default=0.0)
    slope = float(np.polyfit(np.arange(len(warm)), warm, 1)[0])
    return slope * len(warm), max(memory)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-random", help="`fake` is the fake engine")
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest-s", type=float, default=20.0, help="that a fault lasts")
    parser.add_argument("--most-mib", type=float, default=24.0, help="that the server may grow by once it is warm")
    options = parser.parse_args()
    sizes = Sizes(None if options.model == "fake" else options.model)
    verdict = Verdict(5)
    with tempfile.TemporaryDirectory(prefix="s2l-faults-") as folder:
        storm(sizes, options.faults, options.seed, options.longest_s, Path(folder), verdict, options.most_mib)
    verdict.end()


if __name__ == "__main__":
    main()
