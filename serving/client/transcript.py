"""The state of one session on the client's side: numbers, times and the growing output. No input or output here."""

from collections.abc import Callable

from s2l_jax.core.errors import FailedPrecondition, InternalError, InvalidArgument
from s2l_jax.core.params import SamplingParams
from serving.client.types import Accepted, Done, Event, Progress, Result, Token
from serving.protos.s2l.v1 import streaming_pb2 as pb
from serving.wire import Content, content_to_wire, params_to_wire


class Transcript:
    """Makes a session's requests and folds its responses into a result.

    Not thread-safe as a whole: requests are made by one thread or task, responses are folded by one (maybe another).
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seq = 0
        self._final = False
        self._opened_at_s = 0.0
        self._final_at_s: float | None = None
        self._ended_at_s: float | None = None
        self._token_at_s: list[float] = []
        self._ids: list[int] = []
        self._text: list[str] = []
        self._logprobs: list[float] = []
        self.session_id = ""
        self.accepted: dict[int, Accepted] = {}
        self.done: Done | None = None

    def open(
        self,
        content: Content,
        params: SamplingParams | None,
        *,
        session_id: str,
        final: bool,
        add_bos: bool,
        priority: int = 0,
        first_token_within_s: float | None = None,
    ) -> pb.SessionRequest:
        """The first request; starts the clock of `ttft_open_s`.

        Raises:
          InvalidArgument: the content or the priority cannot be sent.
        """
        wire = pb.Open(
            session_id=session_id,
            content=content_to_wire(content),
            params=params_to_wire(params),
            final=final,
            add_bos=add_bos,
            first_token_within_s=first_token_within_s,
        )
        try:
            wire.priority = priority
        except ValueError as error:
            raise InvalidArgument(f"priority is {priority!r}, but must fit into 32 bits") from error
        self.session_id = session_id
        self._opened_at_s = self._clock()
        return self._next(pb.SessionRequest(open=wire), final=final)

    def append(self, content: Content, *, final: bool) -> pb.SessionRequest:
        """Context grows at its end."""
        return self._next(
            pb.SessionRequest(append=pb.Append(content=content_to_wire(content), final=final)), final=final
        )

    def update(self, content: Content, *, keep_tokens: int, keep_chars: int, final: bool) -> pb.SessionRequest:
        """Context is replaced, but for the first `keep_tokens` tokens or `keep_chars` characters."""
        wire = pb.Update(content=content_to_wire(content), keep_tokens=keep_tokens, keep_chars=keep_chars, final=final)
        return self._next(pb.SessionRequest(update=wire), final=final)

    def finish(self) -> pb.SessionRequest:
        """The context is complete."""
        return self._next(pb.SessionRequest(finish=pb.Finish()), final=True)

    def cancel(self) -> pb.SessionRequest:
        """The session ends, whatever its state."""
        self._seq += 1
        return pb.SessionRequest(seq=self._seq, cancel=pb.Cancel())

    def _next(self, request: pb.SessionRequest, *, final: bool) -> pb.SessionRequest:
        if self._final:
            raise FailedPrecondition("the context was declared complete; nothing can be added to it")
        self._seq += 1
        request.seq = self._seq
        if final:
            self._final = True
            self._final_at_s = self._clock()
        return request

    def fold(self, response: pb.SessionResponse) -> Event | None:
        """Records a response and returns it as an event; None for kinds that this client does not know."""
        match response.WhichOneof("event"):
            case "accepted":
                wire = response.accepted
                self.session_id = wire.session_id
                answer = Accepted(
                    wire.session_id, wire.seq, wire.context_tokens, wire.kept_tokens, wire.invalidated_tokens
                )
                self.accepted[answer.seq] = answer
                return answer
            case "progress":
                return Progress(response.progress.computed_tokens, response.progress.context_tokens)
            case "token":
                return self._fold_token(response.token)
            case "done":
                self.done = _done(response.done)
                self._ended_at_s = self._clock()
                return self.done
            case _:
                return None

    def _fold_token(self, wire: pb.Token) -> Token:
        top = tuple(tuple(zip(one.ids, one.logprobs, strict=True)) for one in wire.top)
        token = Token(tuple(wire.ids), wire.text, tuple(wire.logprobs), top)
        self._token_at_s.extend([self._clock()] * len(token.ids))
        self._ids.extend(token.ids)
        self._text.append(token.text)
        self._logprobs.extend(token.logprobs)
        return token

    def result(self) -> Result:
        """The finished session.

        Raises:
          InternalError: the stream ended without the server's account.
        """
        if self.done is None or self._ended_at_s is None:
            raise InternalError("the stream ended before the session was done; is the server of another version?")
        first_at_s = self._token_at_s[0] if self._token_at_s else None
        return Result(
            session_id=self.session_id,
            text="".join(self._text),
            token_ids=tuple(self._ids),
            logprobs=tuple(self._logprobs),
            done=self.done,
            ttft_open_s=None if first_at_s is None else first_at_s - self._opened_at_s,
            ttft_final_s=None if first_at_s is None or self._final_at_s is None else first_at_s - self._final_at_s,
            token_times_s=tuple(at_s - self._opened_at_s for at_s in self._token_at_s),
            wall_s=self._ended_at_s - self._opened_at_s,
        )


def _done(wire: pb.Done) -> Done:
    return Done(
        finish_reason=wire.finish_reason,
        prompt_tokens=wire.prompt_tokens,
        output_tokens=wire.output_tokens,
        computed_tokens=wire.computed_tokens,
        reused_tokens=wire.reused_tokens,
        invalidated_tokens=wire.invalidated_tokens,
        restored_tokens=wire.restored_tokens,
        recomputed_tokens=wire.recomputed_tokens,
        preemptions=wire.preemptions,
        ttft_open_s=wire.ttft_open_s,
        ttft_final_s=wire.ttft_final_s,
    )
