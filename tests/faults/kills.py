"""kill -9 of either side's engine, and of the orchestrator, at each stage of a session; then restart and rejoin.

`python -m tests.faults.kills --model tiny-random`. In each case an engine of the other role is in the orchestrator's
process; a session is brought to the stage, the victim killed, and the answer compared with the one from before. The
figures are the longest time between two tokens of the session (without a kill in brackets), and how long the engine,
started again and ready, waited until it was at work.
"""

import argparse
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from s2l_jax.core.errors import Unavailable
from serving.client import Client, SamplingParams
from serving.client.sync import Session
from tests.faults.processes import Deployment, Sizes, deployment
from tests.faults.verdict import Verdict

TIMEOUT_S = 120.0
TOKENS = 40
PARAMS = SamplingParams(max_tokens=TOKENS, ignore_eos=True)
_PIECE, _PIECES = 13, 5
_LESS_THAN_A_PAGE_BYTES = 1000
_HELD_S = 20.0


@dataclass
class Story:
    """One session that is to be disturbed.

    Attributes:
      ids: tokens that have come.
      times_s: when.
    """

    session: Session
    seed: int
    ids: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    _tokens: Iterator[int] = field(default_factory=lambda: iter(()))
    _sent: int = 0

    def send(self, pieces: int) -> None:
        """Sends so many pieces more of the context."""
        for _ in range(pieces):
            start = self._sent * _PIECE
            self.session.append([97 + (self.seed + 7 * (start + i)) % 26 for i in range(_PIECE)])
            self._sent += 1

    def finish(self) -> None:
        self.session.finish()
        self._tokens = (token for event in self.session.tokens() for token in event.ids)

    def read(self, count: int = TOKENS) -> None:
        """Waits for so many tokens, or for the end."""
        while len(self.ids) < count and (token := next(self._tokens, None)) is not None:
            self.ids.append(token)
            self.times_s.append(time.monotonic())

    @property
    def longest_gap_s(self) -> float:
        return max((after - before for before, after in pairwise(self.times_s)), default=0.0)


@contextmanager
def story(client: Client, seed: int) -> Iterator[Story]:
    with client.session(PARAMS, timeout_s=TIMEOUT_S) as session:
        yield Story(session, seed)


def undisturbed(client: Client, seed: int) -> Story:
    """The session, and what becomes of it if nothing happens."""
    with story(client, seed) as one:
        one.send(_PIECES)
        one.finish()
        one.read()
        return one


def _idle(one: Story, d: Deployment) -> None:
    d.engines[0].kill()
    one.send(_PIECES)
    one.finish()


def _mid_stream(one: Story, d: Deployment) -> None:
    one.send(3)
    _wait_accepted(one, 4)
    time.sleep(0.1)  # so that some of it is computed
    d.engines[0].kill()
    one.send(2)
    one.finish()


def _before_handoff(one: Story, d: Deployment) -> None:
    """The context is complete, and no token is there: the engine is stopped before it can sample one, or knows none."""
    one.send(_PIECES - 1)
    _wait_accepted(one, _PIECES)
    d.engines[0].send(signal.SIGSTOP)
    one.send(1)
    one.finish()
    time.sleep(0.2)
    d.engines[0].kill()


def _during_handoff_to(one: Story, d: Deployment) -> None:
    """The first token is there, and the pages are on their way to an engine that does not take them."""
    one.send(_PIECES)
    _wait_accepted(one, _PIECES + 1)
    d.engines[0].send(signal.SIGSTOP)
    one.finish()
    one.read(1)
    time.sleep(0.2)
    assert len(one.ids) == 1
    d.engines[0].kill()


def _during_handoff_from(one: Story, d: Deployment) -> None:
    """The pages are on their way from an engine whose link is cut in the middle of them."""
    one.send(_PIECES)
    _wait_accepted(one, _PIECES + 1)
    time.sleep(0.2)
    d.links[0].cut_after(_LESS_THAN_A_PAGE_BYTES)
    one.finish()
    assert d.links[0].is_held.wait(_HELD_S), "no pages came"
    d.engines[0].kill()
    d.links[0].heal()


def _after_handoff(one: Story, d: Deployment) -> None:
    one.send(_PIECES)
    one.finish()
    one.read(3)
    d.engines[0].kill()


def _mid_decode(one: Story, d: Deployment) -> None:
    one.send(_PIECES)
    one.finish()
    one.read(TOKENS // 2)
    d.engines[0].kill()


def _wait_accepted(one: Story, events: int) -> None:
    """Waits until the server has said yes to so many events, `open` among them."""
    end_s = time.monotonic() + TIMEOUT_S
    while len(one.session.accepted) < events:
        assert time.monotonic() < end_s
        time.sleep(0.005)


Stage = Callable[[Story, Deployment], None]
_COMMON: tuple[tuple[str, Stage], ...] = (
    ("idle", _idle),
    ("mid-stream", _mid_stream),
    ("before the hand-off", _before_handoff),
)
STAGES: dict[str, tuple[tuple[str, Stage], ...]] = {
    "prefill": (*_COMMON, ("during the hand-off", _during_handoff_from), ("after the hand-off", _after_handoff)),
    "generate": (*_COMMON, ("during the hand-off", _during_handoff_to), ("after the hand-off", _after_handoff),
                 ("mid-decode", _mid_decode)),
}  # fmt: skip
CASES = sum(len(stages) for stages in STAGES.values())


def kill_each(victim: str, stages: Sequence[tuple[str, Stage]], sizes: Sizes, folder: Path, verdict: Verdict) -> None:
    """Kills an engine of the role `victim` at each of these stages."""
    other = "generate" if victim == "prefill" else "prefill"
    with deployment(other, [victim], sizes, folder=folder) as d, Client(d.target, timeout_s=TIMEOUT_S) as client:
        for seed, (name, stage) in enumerate(stages):
            before = undisturbed(client, seed)
            with story(client, seed) as one:
                stage(one, d)
                one.read()
            d.wait_joined(missing=1)
            d.wait_empty()
            d.engines[0].start()
            _ = d.engines[0].port
            joined_s = d.wait_joined()
            again = undisturbed(client, seed)
            d.wait_empty()
            is_right = len(before.ids) == TOKENS and one.ids == before.ids == again.ids
            text = (
                f"{'right' if is_right else 'WRONG'} tokens, longest gap {one.longest_gap_s:.2f} s "
                f"({before.longest_gap_s:.2f} s), at work {joined_s:.1f} s after it was ready"
            )
            defects = d.tracebacks()
            verdict.case(f"{victim} killed, {name}", "; ".join([text, *defects]), is_right and not defects)


def kill_orchestrator(sizes: Sizes, folder: Path, verdict: Verdict) -> None:
    """Kills the server: clients hear of it at once, and the engine serves the next one."""
    with deployment("prefill", ["generate"], sizes, folder=folder) as d:
        with Client(d.target, timeout_s=TIMEOUT_S) as client:
            before = undisturbed(client, 1)
            with story(client, 1) as one:
                one.send(_PIECES)
                one.finish()
                one.read(TOKENS // 2)
                d.server.kill()
                begin_s = time.monotonic()
                status = "nothing"
                try:
                    one.read()
                except Unavailable:
                    status = "UNAVAILABLE"
                heard_s = time.monotonic() - begin_s
        d.server.start()
        d.wait_joined()
        with Client(d.target, timeout_s=TIMEOUT_S) as client:
            again = undisturbed(client, 1)
        d.wait_empty()
        is_good = status == "UNAVAILABLE" and again.ids == before.ids
        text = (
            f"{status} after {heard_s:.2f} s; the engine serves the next one, {'right' if is_good else 'WRONG'} tokens"
        )
        defects = d.tracebacks()
        verdict.case("orchestrator killed, mid-decode", "; ".join([text, *defects]), is_good and not defects)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-random", help="`fake` is the fake engine")
    options = parser.parse_args()
    sizes = Sizes(None if options.model == "fake" else options.model)
    verdict = Verdict(CASES + 1)
    with tempfile.TemporaryDirectory(prefix="s2l-faults-") as folder:
        for victim, stages in STAGES.items():
            kill_each(victim, stages, sizes, Path(folder), verdict)
        kill_orchestrator(sizes, Path(folder), verdict)
    verdict.end()


if __name__ == "__main__":
    main()
