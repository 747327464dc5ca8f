"""Answers of `/v1/chat/completions` as OpenAI lays them out."""

import time
import uuid
from typing import Any

from serving.http.answer import Choice
from serving.http.backend import Backend
from serving.http.logprobs import Scored, chat_logprobs
from serving.http.requests import ChatRequest
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


class ChatShape:
    """OpenAI's chat objects.

    Args:
      backend: the served model.
      body: what was asked.

    Attributes:
      common: fields that all objects of one answer have.
    """

    def __init__(self, backend: Backend, body: ChatRequest) -> None:
        self._tokenizer = backend.tokenizer
        self._with_logprobs = bool(body.logprobs)
        self.common: dict[str, Any] = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": backend.model.name,
            "system_fingerprint": f"s2l-{backend.model.server_version}",
        }
        self._chunk: dict[str, Any] = self.common | {"object": "chat.completion.chunk"}
        self._rest: dict[str, Any] = {"usage": None} if body.includes_usage else {}

    def whole(self, choices: list[Choice], usage: Usage) -> ChatCompletion:
        """See `Shape`."""
        answers = [
            ChatChoice(
                index=index,
                message=ChatMessage(content=one.text),
                logprobs=self.logprobs(one.tokens),
                finish_reason=one.finish_reason,
            )
            for index, one in enumerate(choices)
        ]
        return ChatCompletion(**self.common, choices=answers, usage=usage)

    def first(self, index: int) -> ChatChunk:
        """See `Shape`."""
        return self.chunk_of(index, ChatDelta(role="assistant", content=""), [], None)

    def piece(self, index: int, text: str, tokens: list[Scored], finish_reason: str | None) -> ChatChunk:
        """See `Shape`."""
        return self.chunk_of(index, ChatDelta() if finish_reason else ChatDelta(content=text), tokens, finish_reason)

    def usage(self, usage: Usage) -> ChatChunk:
        """See `Shape`."""
        return ChatChunk(**self._chunk, choices=[], usage=usage)

    def chunk_of(self, index: int, delta: ChatDelta, tokens: list[Scored], finish_reason: str | None) -> ChatChunk:
        """An event of a stream."""
        logprobs = self.logprobs(tokens) if tokens else None
        choice = ChatChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=finish_reason)
        return ChatChunk(**self._chunk, choices=[choice], **self._rest)

    def logprobs(self, tokens: list[Scored]) -> ChatLogprobs | None:
        """Log probabilities of tokens, if they were asked for."""
        return chat_logprobs(self._tokenizer, tokens) if self._with_logprobs else None
