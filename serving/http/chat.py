"""`POST /v1/chat/completions`."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from s2l_jax.core.errors import InvalidArgument
from serving.http.answer import Answerer, Choice
from serving.http.backend import Backend
from serving.http.generation import Job
from serving.http.logprobs import Scored, chat_logprobs
from serving.http.requests import ChatRequest, Message
from serving.http.responses import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    Usage,
)


def chat_routes(backend: Backend) -> APIRouter:
    """The route of chat."""
    router = APIRouter(tags=["OpenAI"])

    @router.post(
        "/v1/chat/completions",
        response_model=ChatCompletion,
        responses={
            200: {
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
                "description": "With `stream`: events `data: {chunk}`, then `data: [DONE]`.",
            }
        },
    )
    async def chat(body: ChatRequest, http: Request) -> Response:
        """Answers a conversation."""
        backend.check_model(body.model)
        backend.check_answers(body.choices)
        prompt = await backend.in_pool(lambda: render(backend, body.messages))
        wanted = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        max_tokens = backend.model.default_max_tokens if wanted is None else wanted
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        jobs = [Job(prompt, body.params(i, max_tokens, logprobs), add_bos=False) for i in range(body.choices)]
        return await Answerer(backend, body, jobs, _Shape(backend, body)).respond(http)

    return router


def render(backend: Backend, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
    """The prompt of a conversation, by the model's own template.

    Raises:
      InvalidArgument: the model has no template, or it refuses these messages.
    """
    if backend.chat_template is None:
        raise InvalidArgument(
            f"model {backend.model.name!r} has no chat template, so it cannot chat: use /v1/completions"
        )
    return backend.chat_template.render(
        [message.for_template() for message in messages], add_generation_prompt=add_generation_prompt
    )


class _Shape:
    """OpenAI's chat objects."""

    def __init__(self, backend: Backend, body: ChatRequest) -> None:
        self._tokenizer = backend.tokenizer
        self._with_logprobs = bool(body.logprobs)
        self._common: dict[str, Any] = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": backend.model.name,
            "system_fingerprint": f"s2l-{backend.model.server_version}",
        }
        self._chunk: dict[str, Any] = self._common | {"object": "chat.completion.chunk"}
        self._rest: dict[str, Any] = {"usage": None} if body.includes_usage else {}

    def whole(self, choices: list[Choice], usage: Usage) -> ChatCompletion:
        answers = [
            ChatChoice(
                index=index,
                message=ChatMessage(content=one.text),
                logprobs=self._logprobs(one.tokens),
                finish_reason=one.finish_reason,
            )
            for index, one in enumerate(choices)
        ]
        return ChatCompletion(**self._common, choices=answers, usage=usage)

    def first(self, index: int) -> ChatChunk:
        return self._of(index, ChatDelta(role="assistant", content=""), [], None)

    def piece(self, index: int, text: str, tokens: list[Scored], finish_reason: str | None) -> ChatChunk:
        return self._of(index, ChatDelta() if finish_reason else ChatDelta(content=text), tokens, finish_reason)

    def usage(self, usage: Usage) -> ChatChunk:
        return ChatChunk(**self._chunk, choices=[], usage=usage)

    def _of(self, index: int, delta: ChatDelta, tokens: list[Scored], finish_reason: str | None) -> ChatChunk:
        logprobs = self._logprobs(tokens) if tokens else None
        choice = ChatChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=finish_reason)
        return ChatChunk(**self._chunk, choices=[choice], **self._rest)

    def _logprobs(self, tokens: list[Scored]) -> ChatLogprobs | None:
        return chat_logprobs(self._tokenizer, tokens) if self._with_logprobs else None
