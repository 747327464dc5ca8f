"""A step that is being put together."""

from typing import Any

from s2l_jax.core.admission import Admission
from s2l_jax.core.costs import StepShape
from s2l_jax.core.flights import Flight
from s2l_jax.core.plan import Chunk, HostCopy, PageCopy, Sample, StepPlan
from s2l_jax.core.records import Plain, Records
from s2l_jax.core.session import Session

_new: Any = tuple.__new__  # makes a named tuple in half the time of its own constructor


class Draft:
    """What a step has so far, and what is left of its budgets.

    Attributes:
      step_id: the step's number.
      now_s: the time.
      budget_tokens: what prompts may still compute.
      budget_s: how long that may take.
      room: how many more sessions the batch takes.
      spare_blocks: what incomplete sessions may still take.
      singles: fields of chunks of one token.
      chunks: of longer ones.
      samples: of what is sampled.
      saves: pages to copy to the host.
      loads: pages to copy from there.
      copies: pages to copy within the device.
      sessions: all that are in the step.
      sampling: those that are sampled.
      contexts: sum of the contexts of `singles`.
    """

    __slots__ = (
        "attended_tokens",
        "budget_s",
        "budget_tokens",
        "chunks",
        "contexts",
        "copies",
        "loads",
        "now_s",
        "prefill_tokens",
        "room",
        "samples",
        "sampling",
        "saves",
        "sessions",
        "singles",
        "spare_blocks",
        "step_id",
    )

    def __init__(self, step_id: int, admission: Admission, now_s: float) -> None:
        self.step_id = step_id
        self.now_s = now_s
        self.budget_tokens = admission.budget_tokens
        self.budget_s = admission.budget_s
        self.room = admission.room
        self.spare_blocks = admission.spare_blocks
        self.singles: list[Plain] = []
        self.chunks: list[Plain] = []
        self.samples: list[Plain] = []
        self.saves: list[HostCopy] = []
        self.loads: list[HostCopy] = []
        self.copies: list[PageCopy] = []
        self.sessions: list[Session] = []
        self.sampling: list[Session] = []
        self.prefill_tokens = 0
        self.attended_tokens = 0.0
        self.contexts = 0

    @property
    def shape(self) -> StepShape:
        """How much work it is."""
        return _new(StepShape, (self.prefill_tokens, self.attended_tokens, len(self.singles), self.contexts))

    def compute(self, session: Session, tokens: int, seconds: float) -> None:
        """Runs the next `tokens` tokens of a prompt, which has blocks for them; they take so many seconds."""
        start = session.advance(tokens)
        view = session.tokens.view[start : start + tokens]
        chunk = (session.id, session.slot, start, view, session.blocks.view)
        if tokens == 1:
            self.singles.append(chunk)
            self.contexts += start
        else:
            self.chunks.append(chunk)
            self.prefill_tokens += tokens
            self.attended_tokens += tokens * (start + tokens / 2)
        self.budget_tokens -= tokens
        self.budget_s -= seconds

    def add(self, session: Session) -> None:
        """A prompt is in the step: it computes, gets pages, or is sampled."""
        session.ends.append(session.computed)
        session.planned = self.step_id
        self.sessions.append(session)
        self.room -= 1

    def sample(self, session: Session) -> None:
        """Samples the next token of a session that is computed to its end."""
        position = session.length
        history = session.tokens.view[:position] if session.has_penalties else None
        prompt = session.prompt_tokens
        self.samples.append((session.id, session.slot, session.params, session.seed, position, history, prompt, None))
        self.sampling.append(session)
        session.pending += 1
        session.knows_last = True

    def flight(self) -> Flight:
        """The finished step."""
        copies = tuple(self.saves), tuple(self.loads), tuple(self.copies)
        chunks, samples = Records(Chunk, self.singles + self.chunks), Records(Sample, self.samples)
        plan = _new(StepPlan, (self.step_id, chunks, samples, *copies, self.shape))
        return _new(Flight, (plan, self.sessions, self.sampling))
