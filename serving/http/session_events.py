"""Events of a streaming session as JSON, the way out: those of `s2l.v1.StreamingContext` under the same names."""

from pydantic import BaseModel, Field

from s2l_jax.core.outcome import Ack
from serving.http.errors import ErrorDetail
from serving.http.logprobs import finite
from serving.protos.s2l.v1 import streaming_pb2 as pb


class Accepted(BaseModel):
    """Answers one event."""

    session_id: str
    seq: int = Field(description="Number of the event that is answered.")
    context_tokens: int = Field(description="Length of the context after it.")
    kept_tokens: int = Field(description="Longest common prefix with the context before it.")
    invalidated_tokens: int = Field(description="Computed tokens that it threw away.")


class Progress(BaseModel):
    """How much of the context is computed; a few times a second at most."""

    computed_tokens: int
    context_tokens: int


class TopLogprobs(BaseModel):
    """The likeliest tokens in one place."""

    ids: list[int]
    logprobs: list[float]


class Token(BaseModel):
    """One output token, or several if they are read more slowly than they come."""

    ids: list[int]
    text: str = Field(description="Text that became certain; may be empty, a character is never split.")
    logprobs: list[float] = Field(description="One for each token, if asked for.")
    top: list[TopLogprobs] = Field(description="One for each token, if asked for.")


class Done(BaseModel):
    """The end of a session, with what it cost."""

    finish_reason: str = Field(description="`stop`, `length` or `cancelled`.")
    prompt_tokens: int = Field(description="Length of the context.")
    output_tokens: int
    computed_tokens: int = Field(description="Prompt tokens ever computed, recomputation included.")
    reused_tokens: int = Field(description="Prompt tokens taken from KV that existed already.")
    invalidated_tokens: int = Field(description="Computed tokens that updates threw away.")
    restored_tokens: int = Field(description="Tokens whose KV came back after the session had lost it.")
    recomputed_tokens: int = Field(description="Tokens computed again after the session had lost their KV.")
    preemptions: int = Field(description="How often the session lost KV.")
    ttft_open_s: float = Field(description="From open to the first token, 0 if there was none.")
    ttft_final_s: float = Field(description="From the event that completed the context to the first token.")


class SessionEvent(BaseModel):
    """One event: exactly one of the fields is there."""

    accepted: Accepted | None = None
    progress: Progress | None = None
    token: Token | None = None
    done: Done | None = None
    error: ErrorDetail | None = Field(default=None, description="The last event of a session that failed.")

    def to_json(self) -> str:
        """The event alone, without the fields that are not there."""
        return self.model_dump_json(exclude_unset=True)


def accepted_of(ack: Ack) -> Accepted:
    """The answer to an event."""
    return Accepted(
        session_id=ack.session_id,
        seq=ack.seq,
        context_tokens=ack.context_tokens,
        kept_tokens=ack.kept_tokens,
        invalidated_tokens=ack.invalidated_tokens,
    )


def event_of(response: pb.SessionResponse) -> SessionEvent:
    """The same as a message of gRPC."""
    match response.WhichOneof("event"):
        case "accepted":
            return SessionEvent(accepted=_same(Accepted, response.accepted))
        case "progress":
            return SessionEvent(progress=_same(Progress, response.progress))
        case "token":
            token = response.token
            top = [TopLogprobs(ids=list(one.ids), logprobs=[finite(p) for p in one.logprobs]) for one in token.top]
            logprobs = [finite(logprob) for logprob in token.logprobs]
            return SessionEvent(token=Token(ids=list(token.ids), text=token.text, logprobs=logprobs, top=top))
        case _:
            return SessionEvent(done=_same(Done, response.done))


def _same[M: BaseModel](model: type[M], message: object) -> M:
    return model(**{name: getattr(message, name) for name in model.model_fields})
