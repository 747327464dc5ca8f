"""A routed session's output: tokens from whichever replica, text made here."""

from collections.abc import Collection

from s2l_jax.core.params import SamplingParams
from s2l_jax.models.stream_decoder import StreamDecoder
from s2l_jax.models.tokenizer import Tokenizer
from s2l_jax.orchestrator.events import TokenEvent
from s2l_jax.orchestrator.stop import StopFilter
from serving.protos.s2l.v1 import streaming_pb2 as pb


class RoutedOutput:
    """Turns the tokens of replicas into events, and knows when they are enough.

    Text and stop strings are dealt with here and not by the replicas, since a character, or a stop string, may begin at
    one and end at another.

    Attributes:
      ids: all tokens so far.
      reason: why the output has ended, `stop` or `length`; None while it has not.
    """

    def __init__(self, tokenizer: Tokenizer, params: SamplingParams, eos_token_ids: Collection[int]) -> None:
        self.ids: list[int] = []
        self.reason: str | None = None
        self._max_tokens = params.max_tokens
        self._ends = params.stop_token_ids | (frozenset() if params.ignore_eos else frozenset(eos_token_ids))
        self._decoder = StreamDecoder(tokenizer, continues=True)
        self._stop = StopFilter(params.stop)

    def take(self, token: pb.Token, first: int = 0) -> list[TokenEvent]:
        """The events of a message, up to where the output ends.

        Args:
          token: one token or several.
          first: of these, how many are known already.
        """
        events: list[TokenEvent] = []
        for index in range(first, len(token.ids)):
            if self.reason is not None:
                break
            token_id = token.ids[index]
            self.ids.append(token_id)
            logprobs = (token.logprobs[index],) if token.logprobs else ()
            top = (tuple(zip(token.top[index].ids, token.top[index].logprobs, strict=True)),) if token.top else ()
            events.append(TokenEvent((token_id,), self._render(token_id), logprobs, top))
        return events

    def _render(self, token_id: int) -> str:
        """The text that a token completes; a token that ends the output has none of its own."""
        if token_id in self._ends:
            self.reason = "stop"
        elif len(self.ids) >= self._max_tokens:
            self.reason = "length"
        text = "" if self.reason == "stop" else self._decoder.push(token_id)
        if self.reason is not None:
            text += self._decoder.flush()
        text, is_stopped = self._stop.push(text)
        if is_stopped:
            self.reason = "stop"
        elif self.reason is not None:
            text += self._stop.flush()
        return text
