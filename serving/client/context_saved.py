"""What showing one list after the other kept on the server and what it cost, list by list and in sum."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from serving.client.types import Accepted


@dataclass(frozen=True, slots=True)
class Saved:
    """What became of a context's tokens, in the server's own words.

    Attributes:
      kept_tokens: beginning of the context that stayed.
      sent_tokens: those behind it, to be computed.
      invalidated_tokens: computed ones that were thrown away. A server that had not yet come so far throws less away.
    """

    kept_tokens: int = 0
    sent_tokens: int = 0
    invalidated_tokens: int = 0

    def __add__(self, other: "Saved") -> "Saved":
        return Saved(
            self.kept_tokens + other.kept_tokens,
            self.sent_tokens + other.sent_tokens,
            self.invalidated_tokens + other.invalidated_tokens,
        )


@dataclass(frozen=True, slots=True)
class Step:
    """One list that was shown. Characters are Unicode code points of the prompt up to the last document.

    Attributes:
      op: what was sent: `append`, `update`, or None if the prompt stayed as it was.
      documents: how many are in the prompt.
      kept_chars: beginning of the prompt that stayed.
      sent_chars: what was sent to stand behind it.
      rank_kept_chars: what would have stayed if this list and those before it had been shown in the retriever's order.
      seq: number of the event that tells the server about this list, or about an earlier one if nothing was sent.
      saved: the server's account; None until it has answered.
    """

    op: Literal["append", "update"] | None
    documents: int
    kept_chars: int
    sent_chars: int
    rank_kept_chars: int
    seq: int
    saved: Saved | None = None

    def told(self, answers: Mapping[int, Accepted]) -> Saved | None:
        """The server's account of this step, None if it has not answered.

        Args:
          answers: of the session, by number of event.
        """
        answer = answers.get(self.seq)
        if answer is None:
            return None
        if self.op is None:
            return Saved(kept_tokens=answer.context_tokens)
        return Saved(answer.kept_tokens, answer.context_tokens - answer.kept_tokens, answer.invalidated_tokens)


@dataclass(frozen=True, slots=True)
class Savings:
    """All steps of a context in sum.

    Attributes:
      steps: lists that were shown.
      pending: of these, how many the server has not answered yet; they count in characters only.
      saved: tokens, of all steps that are answered.
      kept_chars: of all steps, as in `Step`; likewise the others.
      sent_chars: likewise.
      rank_kept_chars: likewise.
      rank_kept_tokens: an estimate of what the retriever's order would have kept: `rank_kept_chars` at the tokens per
        character that the server told. None before the first answer.
    """

    steps: int
    pending: int
    saved: Saved
    kept_chars: int
    sent_chars: int
    rank_kept_chars: int
    rank_kept_tokens: int | None


def sum_of(steps: Sequence[Step]) -> Savings:
    """Adds up steps, each with its `saved` if the server has answered."""
    saved = Saved()
    told_chars = 0
    for step in steps:
        if step.saved is not None:
            saved += step.saved
            told_chars += step.kept_chars + step.sent_chars
    rank_kept_chars = sum(step.rank_kept_chars for step in steps)
    told_tokens = saved.kept_tokens + saved.sent_tokens
    return Savings(
        steps=len(steps),
        pending=sum(step.saved is None for step in steps),
        saved=saved,
        kept_chars=sum(step.kept_chars for step in steps),
        sent_chars=sum(step.sent_chars for step in steps),
        rank_kept_chars=rank_kept_chars,
        rank_kept_tokens=round(rank_kept_chars * told_tokens / told_chars) if told_chars else None,
    )
