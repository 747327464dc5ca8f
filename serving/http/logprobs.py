"""Log probabilities in OpenAI's two shapes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from s2l_jax.models.tokenizer import Tokenizer
from s2l_jax.orchestrator.events import TokenEvent
from serving.http.responses import ChatLogprobs, CompletionLogprobs, TokenLogprob, TopLogprob

_LOWEST = -9999.0


@dataclass(frozen=True, slots=True)
class Scored:
    """One token of the output.

    Attributes:
      token_id: the token.
      logprob: its log probability.
      top: `(token id, log probability)` of the likeliest tokens.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def scored(event: TokenEvent, ending: frozenset[int]) -> Iterator[Scored]:
    """The tokens of an event that have log probabilities; those that end the output are no part of it."""
    tops = event.top or ((),) * len(event.ids)
    for token_id, logprob, top in zip(event.ids, event.logprobs, tops, strict=False):
        if token_id not in ending:
            yield Scored(token_id, finite(logprob), tuple((one, finite(value)) for one, value in top))


def chat_logprobs(tokenizer: Tokenizer, tokens: Iterable[Scored]) -> ChatLogprobs:
    """The shape of chat."""

    def entry(token_id: int, logprob: float) -> dict[str, object]:
        raw = tokenizer.token_bytes(token_id, skip_special=False)
        return {"token": raw.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(raw)}

    content = [
        TokenLogprob.model_validate(
            entry(one.token_id, one.logprob)
            | {"top_logprobs": [TopLogprob.model_validate(entry(*other)) for other in one.top]}
        )
        for one in tokens
    ]
    return ChatLogprobs(content=content, refusal=None)


@dataclass(slots=True)
class CompletionScores:
    """The shape of completions, which counts characters: one object for each answer.

    Attributes:
      tokenizer: of the model.
      chars: characters of the output before the next token.
    """

    tokenizer: Tokenizer
    chars: int = field(default=0)

    def add(self, tokens: Iterable[Scored]) -> CompletionLogprobs:
        """What these tokens add."""
        result = CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
        for one in tokens:
            raw = self.tokenizer.token_bytes(one.token_id, skip_special=False)
            result.tokens.append(token_text(raw))
            result.token_logprobs.append(one.logprob)
            top = {self._text(token_id): logprob for token_id, logprob in one.top}
            result.top_logprobs.append(top | {token_text(raw): one.logprob})
            result.text_offset.append(self.chars)
            self.chars += sum((byte & 0xC0) != 0x80 for byte in raw)  # a character begins at each of these
        return result

    def _text(self, token_id: int) -> str:
        return token_text(self.tokenizer.token_bytes(token_id, skip_special=False))


def token_text(raw: bytes) -> str:
    r"""The text of a token, or `bytes:\xe2\x82` for a part of a character, as OpenAI spells it."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def finite(logprob: float) -> float:
    """The log probability, or a very low one where there is none: JSON has no infinity."""
    return max(logprob, _LOWEST)
