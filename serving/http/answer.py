"""From the events of sessions to an answer, whole or in pieces, in whichever shape the route has."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from s2l_jax.core.outcome import SessionStats
from s2l_jax.orchestrator.events import DoneEvent
from serving.http.backend import Backend
from serving.http.door import account_of
from serving.http.generation import Generation, Job
from serving.http.logprobs import Scored, scored
from serving.http.requests import SamplingRequest
from serving.http.responses import PromptTokensDetails, Usage
from serving.http.sse import DONE, EventStream, event, until_gone


@dataclass(slots=True)
class Choice:
    """One answer as far as it has come.

    Attributes:
      text: the output.
      tokens: its tokens, if log probabilities were asked for.
      stats: what it took, once it is complete.
      finish_reason: why it ended, once it is complete.
    """

    text: str = ""
    tokens: list[Scored] = field(default_factory=list)
    stats: SessionStats | None = None
    finish_reason: str = ""


class Shape(Protocol):
    """How a route lays out its answers."""

    def whole(self, choices: list[Choice], usage: Usage) -> BaseModel:
        """The answer in one piece."""

    def first(self, index: int) -> BaseModel | None:
        """What comes before the first piece of an answer, if anything."""

    def piece(self, index: int, text: str, tokens: list[Scored], finish_reason: str | None) -> BaseModel:
        """A piece of an answer; the last one has a reason and no text."""

    def usage(self, usage: Usage) -> BaseModel:
        """What comes behind all pieces, if asked for."""


@dataclass(frozen=True, slots=True)
class Answerer:
    """Answers one request.

    Attributes:
      backend: the served model.
      request: what was asked.
      jobs: what to generate: `request.choices` for each prompt, one prompt after the other.
      shape: of the answer.
    """

    backend: Backend
    request: SamplingRequest
    jobs: list[Job]
    shape: Shape

    async def respond(self, http: Request) -> Response:
        """Generates, whole or as a stream. A client that goes ends its sessions."""
        generation = Generation(self.backend, account_of(http), self.request, self.jobs)
        if self.request.stream:
            await generation.open()
            return EventStream(self._stream(generation), generation.close, self.backend.send_timeout_s)
        whole = await until_gone(http.receive, self._collect(generation))
        return Response(whole.model_dump_json(), media_type="application/json")

    async def _collect(self, generation: Generation) -> BaseModel:
        choices = [Choice() for _ in self.jobs]
        try:
            await generation.open()
            async for index, one in generation.events():
                choice = choices[index]
                if isinstance(one, DoneEvent):
                    choice.stats, choice.finish_reason = one.stats, one.finish_reason
                else:
                    choice.text += one.text
                    choice.tokens += scored(one, self._ending)
        finally:
            generation.close()
        return self.shape.whole(choices, self._usage([choice.stats for choice in choices]))

    async def _stream(self, generation: Generation) -> AsyncIterator[bytes]:
        shape, ending = self.shape, self._ending
        with_logprobs = self.jobs[0].params.logprobs is not None
        stats: list[SessionStats | None] = [None] * len(self.jobs)
        for index in range(len(self.jobs)):
            first = shape.first(index)
            if first is not None:
                yield _encoded(first)
        async for index, one in generation.events():
            if isinstance(one, DoneEvent):
                stats[index] = one.stats
                yield _encoded(shape.piece(index, "", [], one.finish_reason))
            else:
                tokens = list(scored(one, ending)) if with_logprobs else []
                if one.text or tokens:
                    yield _encoded(shape.piece(index, one.text, tokens, None))
        if self.request.includes_usage:
            yield _encoded(shape.usage(self._usage(stats)))
        yield DONE

    @property
    def _ending(self) -> frozenset[int]:
        params = self.jobs[0].params
        eos = () if params.ignore_eos else self.backend.model.eos_token_ids
        return params.stop_token_ids.union(eos)

    def _usage(self, stats: list[SessionStats | None]) -> Usage:
        known = [one for one in stats if one is not None]
        prompts = known[:: self.request.choices]
        prompt_tokens = sum(one.prompt_tokens for one in prompts)
        completion_tokens = sum(one.output_tokens for one in known)
        return Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=sum(one.reused_tokens for one in prompts)),
        )


def _encoded(model: BaseModel) -> bytes:
    return event(model.model_dump_json(exclude_unset=True))
