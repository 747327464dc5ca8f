"""Sessions with known answers: plain ones, streams, and streams whose context is replaced on the way."""

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from s2l_jax.core.errors import ResourceExhausted, S2LError, Unavailable
from serving.client import Client, SamplingParams
from serving.status import RETRY_AFTER_KEY
from tests.fake_model import reference_output
from tests.faults.fake_serve import LETTERS
from tests.faults.processes import Sizes, deployment

_LONGEST_HINT_S = 5.0


@dataclass(frozen=True)
class Script:
    """What a client does: edits `(kept tokens, tokens)` of its context, one after the other.

    Attributes:
      edits: see above; the first keeps nothing.
      max_tokens: of the answer.
    """

    edits: tuple[tuple[int, tuple[int, ...]], ...]
    max_tokens: int

    @property
    def prompt(self) -> list[int]:
        """The context in the end."""
        tokens: list[int] = []
        for keep, tail in self.edits:
            tokens = tokens[:keep] + list(tail)
        return tokens

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(max_tokens=self.max_tokens, ignore_eos=True)


def make_scripts(count: int, seed: int, *, longest: int = 80, max_tokens: int = 40) -> list[Script]:
    """Scripts of all kinds; some begin alike, so that KV is shared."""
    rng = random.Random(seed)
    beginnings = [_letters(rng, 24) for _ in range(3)]
    scripts = []
    for number in range(count):
        tokens = list(rng.choice(beginnings)) if number % 2 else []
        edits: list[tuple[int, tuple[int, ...]]] = [(0, tuple(tokens) or _letters(rng, 4))]
        length = len(edits[0][1])
        for _ in range(rng.randrange(5) if number % 3 else 0):
            keep = rng.randrange(length) if rng.random() < 0.4 else length
            tail = _letters(rng, rng.randrange(1, 24))
            if keep + len(tail) > longest:
                break
            edits.append((keep, tail))
            length = keep + len(tail)
        scripts.append(Script(tuple(edits), rng.randrange(max_tokens // 4, max_tokens + 1)))
    return scripts


class Answer(NamedTuple):
    """What came of a script, and the longest time that its client saw nothing once the context was complete."""

    ids: list[int]
    longest_gap_s: float


def answer(client: Client, script: Script, pause_s: float = 0.0, timeout_s: float | None = None) -> Answer:
    """Goes through a script. `pause_s` is between edits."""
    length, ids, longest_s = 0, [], 0.0
    try:
        with client.session(script.params, timeout_s=timeout_s) as session:
            for keep, tail in script.edits:
                if keep == length:
                    session.append(list(tail))
                else:
                    session.update(list(tail), keep_tokens=keep)
                length = keep + len(tail)
                time.sleep(pause_s)
            session.finish()
            last_s = time.monotonic()
            for token in session.tokens():
                ids += token.ids
                now_s = time.monotonic()
                longest_s, last_s = max(longest_s, now_s - last_s), now_s
    except S2LError as error:
        if RETRY_AFTER_KEY not in dict(session._call.trailing_metadata() or ()):
            error.add_note("without a hint when to try again")
        raise
    return Answer(ids, longest_s)


def known_answers(sizes: Sizes, scripts: Sequence[Script], folder: Path) -> list[list[int]]:
    """What one engine for all says to the contexts as they are in the end, one after the other."""
    if sizes.model is None:
        return [reference_output(script.prompt, script.max_tokens, alphabet=LETTERS) for script in scripts]
    with deployment("both", [], sizes, folder=folder) as d, Client(d.target, timeout_s=120) as client:
        return [list(client.generate(script.prompt, script.params).token_ids) for script in scripts]


@dataclass
class Load:
    """Clients that go through scripts, one after the other, until they are told to stop.

    A session that is refused, or ends with UNAVAILABLE, is begun anew once the time has passed that the error names.

    Attributes:
      outcomes: counts of `right`, `unavailable`, `refused`.
      defects: what should not have happened.
      longest_gap_s: that any of them saw; whoever measures sets it to 0 first.
    """

    target: str
    scripts: Sequence[Script]
    answers: Sequence[Sequence[int]]
    seed: int = 0
    timeout_s: float = 60.0
    pause_s: float = 0.02
    outcomes: Counter[str] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)
    longest_gap_s: float = 0.0
    _is_over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, clients: int) -> None:
        for number in range(clients):
            thread = threading.Thread(target=self._run, args=(number,), name=f"client-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Lets every client come to the end of its session."""
        self._is_over.set()
        end_s = time.monotonic() + self.timeout_s + 20
        for thread in self._threads:
            thread.join(max(0.0, end_s - time.monotonic()))
            if thread.is_alive():
                self.defects.append(f"{thread.name} hangs")

    @property
    def sessions(self) -> int:
        return sum(self.outcomes.values())

    def _run(self, number: int) -> None:
        rng = random.Random(f"{self.seed} {number}")
        with Client(self.target) as client:
            while not self._is_over.is_set():
                index = rng.randrange(len(self.scripts))
                begin_s = time.monotonic()
                outcome, defect, wait_s = self._try(client, index)
                with self._lock:
                    self.outcomes[outcome] += 1
                    if defect:
                        self.defects.append(f"script {index} after {time.monotonic() - begin_s:.1f} s: {defect}")
                self._is_over.wait(wait_s)

    def _try(self, client: Client, index: int) -> tuple[str, str, float]:
        """What became of a session, what is wrong with that, and how long to wait."""
        try:
            found = answer(client, self.scripts[index], self.pause_s, self.timeout_s)
        except (Unavailable, ResourceExhausted) as error:
            kind = "unavailable" if isinstance(error, Unavailable) else "refused"
            defect = f"{error}, {error.__notes__[0]}" if hasattr(error, "__notes__") else ""
            return kind, defect, min(error.retry_after_s, _LONGEST_HINT_S)
        except S2LError as error:
            return "failed", f"{error.status}: {error}", 0.0
        except Exception as error:  # noqa: BLE001 - a client's defect is one too
            return "failed", repr(error), 0.0
        with self._lock:
            self.longest_gap_s = max(self.longest_gap_s, found.longest_gap_s)
        if found.ids != list(self.answers[index]):
            return "wrong", f"{found.ids[:8]}... of {len(found.ids)}, not {list(self.answers[index])[:8]}...", 0.0
        return "right", "", 0.0


def _letters(rng: random.Random, count: int) -> tuple[int, ...]:
    return tuple(rng.randrange(97, 123) for _ in range(count))
