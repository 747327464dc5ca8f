"""Events of a streaming session as JSON, the way in: those of `s2l.v1.StreamingContext` under the same names."""

from typing import Annotated, Any, Self

from pydantic import Discriminator, Field, Tag, model_validator

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.core.params import SamplingParams
from serving.http.constrained import StructuredOutputs
from serving.http.requests import (
    Logprobs,
    MaxTokens,
    MinP,
    Penalty,
    Priority,
    RepetitionPenalty,
    Seconds,
    Temperature,
    TokenId,
    TopK,
    TopP,
)
from serving.http.strict import Several, Strict
from serving.protos.s2l.v1 import streaming_pb2 as pb
from serving.wire import content_to_wire, params_to_wire

_UINT = 1 << 32
_SAFE = 1 << 53  # readers of JSON count exactly up to here


def _kind_of_content(content: Any) -> str | None:
    return "<text>" if isinstance(content, str) else "<ids>" if isinstance(content, list) else None


Content = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[Several[TokenId], Tag("<ids>")],
    Discriminator(
        _kind_of_content, custom_error_type="content", custom_error_message="give a text, or a list of token ids"
    ),
]


class SessionParams(Strict):
    """How a session samples; greedily, if nothing is said."""

    max_tokens: MaxTokens | None = Field(default=None, description="Output tokens at most; the server has a default.")
    temperature: Temperature = Field(default=0.0, description="0 is greedy.")
    top_p: TopP = Field(
        default=1.0, description="Keep the smallest set of tokens with at least this probability; 1 is off."
    )
    top_k: TopK = Field(default=0, description="Keep the k likeliest tokens; 0 is off.")
    min_p: MinP = Field(default=0.0, description="Drop tokens less likely than this share of the likeliest; 0 is off.")
    seed: int | None = Field(default=None, description="Makes sampling repeatable.")
    stop: Several[str] = Field(default=[], description="Strings that end the output, and are not part of it.")
    stop_token_ids: Several[TokenId] = Field(default=[], description="Tokens that end the output.")
    ignore_eos: bool = Field(default=False, description="Go on past the end of sequence.")
    repetition_penalty: RepetitionPenalty = Field(default=1.0, description="Divides logits of tokens seen; 1 is off.")
    presence_penalty: Penalty = Field(
        default=0.0, description="Subtracted once from tokens seen in the output, -2 to 2."
    )
    frequency_penalty: Penalty = Field(default=0.0, description="Subtracted for each time a token was output, -2 to 2.")
    logprobs: Logprobs | None = Field(
        default=None, description="Log probabilities of the output and of this many alternatives."
    )

    structured_outputs: StructuredOutputs | None = Field(default=None, description="What the output must look like.")

    def params(self, default_max_tokens: int) -> SamplingParams:
        """Sampling parameters.

        Raises:
          InvalidArgument: a field is out of range.
        """
        fields = self.model_dump(exclude={"structured_outputs"})
        fields["constraint"] = None if self.structured_outputs is None else self.structured_outputs.constraint
        fields["stop"] = tuple(self.stop)
        fields["stop_token_ids"] = frozenset(self.stop_token_ids)
        return SamplingParams(**(fields | {"max_tokens": self.max_tokens or default_max_tokens}))


class Open(Strict):
    """Opens a session with the beginning of its context. This is its event 1."""

    session_id: str | None = Field(default=None, description="Your name for it; left out, the server makes one.")
    content: Content | None = Field(default=None, description="The beginning of the context: text or token ids.")
    params: SessionParams = Field(default=SessionParams(), description="How to sample.")
    final: bool = Field(default=False, description="The context is complete: a plain request.")
    add_bos: bool = Field(default=False, description="Begin with the begin-of-sequence token, if the model has one.")
    priority: Priority = Field(default=0, description="Higher ones go first.")
    first_token_within_s: Seconds = Field(
        default=0.0, description="When the first token is wanted, in s; 0: no matter."
    )


class Append(Strict):
    """Adds to the end of the context."""

    content: Content | None = Field(default=None, description="Of the kind that the session's first content was.")
    final: bool = Field(default=False, description="The context is complete with this.")


class Update(Strict):
    """Replaces what follows the part of the context that is kept."""

    keep_tokens: int = Field(default=0, ge=0, lt=_UINT, description="Tokens that stay, of a context of token ids.")
    keep_chars: int = Field(default=0, ge=0, lt=_UINT, description="Characters that stay, of a context of text.")
    content: Content | None = Field(default=None, description="What comes behind them.")
    final: bool = Field(default=False, description="The context is complete with this.")


class Empty(Strict):
    """An event that needs no words."""


class Numbered(Strict):
    """An event in a request of its own."""

    seq: int = Field(
        0, ge=0, lt=_SAFE, description="The event's number: 2, 3, ... A repeat changes nothing; 0: the next."
    )


class OpenRequest(Open):
    """`POST /v1/sessions`."""

    model: str | None = Field(default=None, description="Name of the served model; may be left out.")
    stream: bool = Field(default=False, description="Send the output in the answer, after the acknowledgement.")


class AppendRequest(Append, Numbered):
    """`POST /v1/sessions/{id}/append`."""


class UpdateRequest(Update, Numbered):
    """`POST /v1/sessions/{id}/update`."""


class FinishRequest(Numbered):
    """`POST /v1/sessions/{id}/finish`."""


class SocketRequest(Numbered):
    """A message to `/v1/stream`: a number and one event."""

    open: Open | None = None
    append: Append | None = None
    update: Update | None = None
    finish: Empty | None = None
    cancel: Empty | None = None

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if len(self.model_fields_set - {"seq"}) != 1:
            raise InvalidArgument("a message has one event: open, append, update, finish or cancel")
        return self

    def to_wire(self, default_max_tokens: int) -> pb.SessionRequest:
        """The same as a message of gRPC.

        Raises:
          InvalidArgument: a sampling parameter is out of range.
        """
        request = pb.SessionRequest(seq=self.seq)
        if self.open is not None:
            one = self.open
            request.open.CopyFrom(
                pb.Open(
                    session_id=one.session_id or "",
                    content=content_to_wire(one.content),
                    params=params_to_wire(one.params.params(default_max_tokens)),
                    final=one.final,
                    add_bos=one.add_bos,
                    priority=one.priority,
                    first_token_within_s=one.first_token_within_s,
                )
            )
        elif self.append is not None:
            request.append.CopyFrom(pb.Append(content=content_to_wire(self.append.content), final=self.append.final))
        elif self.update is not None:
            change = self.update
            request.update.CopyFrom(
                pb.Update(
                    keep_tokens=change.keep_tokens,
                    keep_chars=change.keep_chars,
                    content=content_to_wire(change.content),
                    final=change.final,
                )
            )
        elif self.finish is not None:
            request.finish.SetInParent()
        elif self.cancel is not None:
            request.cancel.SetInParent()
        return request
