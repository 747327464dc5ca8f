"""`POST /v1/completions`."""

import time
import uuid
from typing import Any

from fastapi import APIRouter, Request, Response

from serving.http.answer import Answerer, Choice
from serving.http.backend import Backend
from serving.http.generation import Job
from serving.http.logprobs import CompletionScores, Scored
from serving.http.requests import CompletionRequest
from serving.http.responses import Completion, CompletionChoice, Usage


def completion_routes(backend: Backend) -> APIRouter:
    """The route of completions."""
    router = APIRouter(tags=["OpenAI"])

    @router.post(
        "/v1/completions",
        response_model=Completion,
        responses={
            200: {
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
                "description": "With `stream`: events `data: {...}`, then `data: [DONE]`.",
            }
        },
    )
    async def complete(body: CompletionRequest, http: Request) -> Response:
        """Continues prompts."""
        backend.check_model(body.model)
        backend.check_answers(len(body.prompts) * body.choices)
        max_tokens = backend.model.default_max_tokens if body.max_tokens is None else body.max_tokens
        with_bos = backend.tokenizer.adds_bos and body.add_special_tokens is not False
        jobs = [
            Job(prompt, body.params(index, max_tokens, body.logprobs), with_bos and isinstance(prompt, str))
            for prompt in body.prompts
            for index in range(body.choices)
        ]
        return await Answerer(backend, body, jobs, _Shape(backend, body, len(jobs))).respond(http)

    return router


class _Shape:
    """OpenAI's completion objects."""

    def __init__(self, backend: Backend, body: CompletionRequest, choices: int) -> None:
        self._with_logprobs = body.logprobs is not None
        self._scores = [CompletionScores(backend.tokenizer) for _ in range(choices)]
        self._common: dict[str, Any] = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": backend.model.name,
            "system_fingerprint": f"s2l-{backend.model.server_version}",
        }
        self._rest: dict[str, Any] = {"usage": None} if body.includes_usage else {}

    def whole(self, choices: list[Choice], usage: Usage) -> Completion:
        pieces = [self._choice(i, one.text, one.tokens, one.finish_reason) for i, one in enumerate(choices)]
        return Completion(**self._common, choices=pieces, usage=usage)

    def first(self, index: int) -> None:
        return None

    def piece(self, index: int, text: str, tokens: list[Scored], finish_reason: str | None) -> Completion:
        return Completion(**self._common, choices=[self._choice(index, text, tokens, finish_reason)], **self._rest)

    def usage(self, usage: Usage) -> Completion:
        return Completion(**self._common, choices=[], usage=usage)

    def _choice(self, index: int, text: str, tokens: list[Scored], finish_reason: str | None) -> CompletionChoice:
        logprobs = self._scores[index].add(tokens) if self._with_logprobs else None
        return CompletionChoice(index=index, text=text, logprobs=logprobs, finish_reason=finish_reason)
