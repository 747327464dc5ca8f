"""Answers that are a call of a function, or may hold some, in OpenAI's shape."""

import re
import uuid
from collections.abc import Collection, Sequence
from typing import Any

from serving.http.answer import Choice
from serving.http.chat_shape import ChatShape
from serving.http.free_calls import Call, FreeCallReader
from serving.http.logprobs import Scored
from serving.http.responses import (
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatDelta,
    ChatMessage,
    FunctionCall,
    FunctionCallDelta,
    ToolCallDelta,
    ToolCalled,
    ToolCallMessage,
    Usage,
)

_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"([\w-]*)"\s*,\s*"arguments"\s*:\s*')
_TAIL = re.compile(r"\s*\}?\s*$")


class CallReader:
    """Reads a call from an output that comes in pieces.

    The output is the arguments of a function that is known, or an object with `name` and `arguments`, in this order:
    its constraint has seen to that.

    Args:
      name: of the function, if it is known.

    Attributes:
      name: of the function, once it is known.
    """

    def __init__(self, name: str | None) -> None:
        self.name = name
        self._is_bare = name is not None
        self._held = ""

    def push(self, text: str) -> str:
        """Takes the next piece; returns what it adds to the arguments for certain."""
        if self._is_bare:
            return text
        self._held += text
        if self.name is None:
            head = _HEAD.match(self._held)
            if head is None or head.end() == len(self._held):
                return ""
            self.name, self._held = head[1], self._held[head.end() :]
        tail = _TAIL.search(self._held)
        end = len(self._held) if tail is None else tail.start()
        certain, self._held = self._held[:end], self._held[end:]
        return certain

    def flush(self, *, is_complete: bool) -> str:
        """The rest of the arguments; the brace behind them, if the output is complete, is none of them."""
        rest = "" if self._is_bare or self.name is None or is_complete else self._held
        self._held = ""
        return rest


class ToolCallShape(ChatShape):
    """Lays an answer out as a call.

    Args:
      name: of the function, if it is known.
      **common: see `ChatShape`.
    """

    def __init__(self, name: str | None, *args: Any, **common: Any) -> None:
        super().__init__(*args, **common)
        self._name = name
        self._readers: dict[int, CallReader] = {}
        self._ids: dict[int, str] = {}

    def whole(self, choices: list[Choice], usage: Usage) -> ChatCompletion:
        """See `Shape`."""
        answers = []
        for index, one in enumerate(choices):
            reader = CallReader(self._name)
            arguments = reader.push(one.text) + reader.flush(is_complete=one.finish_reason == "stop")
            call = ToolCalled(id=_new_id(), function=FunctionCall(name=reader.name or "", arguments=arguments))
            message = ToolCallMessage(tool_calls=[call])
            answers.append(
                ChatChoice(
                    index=index,
                    message=message,
                    logprobs=self.logprobs(one.tokens),
                    finish_reason=self._reason(one.finish_reason),
                )
            )
        return ChatCompletion(**self.common, choices=answers, usage=usage)

    def first(self, index: int) -> ChatChunk:
        """See `Shape`."""
        self._readers[index] = CallReader(self._name)
        return self.chunk_of(index, ChatDelta(role="assistant", content=None), [], None)

    def piece(self, index: int, text: str, tokens: list[Scored], finish_reason: str | None) -> ChatChunk:
        """See `Shape`."""
        reader = self._readers[index]
        arguments = reader.push(text)
        if finish_reason is not None:
            arguments += reader.flush(is_complete=finish_reason == "stop")
        return self.chunk_of(index, self._delta(index, reader, arguments), tokens, self._reason(finish_reason))

    def _delta(self, index: int, reader: CallReader, arguments: str) -> ChatDelta:
        if reader.name is None or (not arguments and index in self._ids):
            return ChatDelta()
        if index in self._ids:
            return ChatDelta(tool_calls=[ToolCallDelta(index=0, function=FunctionCallDelta(arguments=arguments))])
        self._ids[index] = _new_id()
        begun = FunctionCallDelta(name=reader.name, arguments=arguments)
        return ChatDelta(tool_calls=[ToolCallDelta(index=0, id=self._ids[index], type="function", function=begun)])

    def _reason(self, reason: str | None) -> Any:
        """`tool_calls`, as at OpenAI, unless the function had been named, or the call is cut."""
        return "tool_calls" if reason == "stop" and self._name is None else reason


class FreeCallShape(ChatShape):
    """Lays out an answer that is text, calls, or both, as the model likes.

    Args:
      names: of the functions that may be called.
      **common: see `ChatShape`.
    """

    def __init__(self, names: Collection[str], *args: Any, **common: Any) -> None:
        super().__init__(*args, **common)
        self._names = names
        self._readers: dict[int, FreeCallReader] = {}
        self._calls: dict[int, int] = {}

    def whole(self, choices: list[Choice], usage: Usage) -> ChatCompletion:
        """See `Shape`."""
        answers = []
        for index, one in enumerate(choices):
            reader = FreeCallReader(self._names)
            text, calls = _apart([*reader.push(one.text), *reader.flush()])
            message = ToolCallMessage(content=text or None, tool_calls=calls) if calls else ChatMessage(content=text)
            answers.append(
                ChatChoice(
                    index=index,
                    message=message,
                    logprobs=self.logprobs(one.tokens),
                    finish_reason=_reason(one.finish_reason, has_called=bool(calls)),
                )
            )
        return ChatCompletion(**self.common, choices=answers, usage=usage)

    def first(self, index: int) -> ChatChunk:
        """See `Shape`."""
        self._readers[index], self._calls[index] = FreeCallReader(self._names), 0
        return self.chunk_of(index, ChatDelta(role="assistant", content=None), [], None)

    def piece(self, index: int, text: str, tokens: list[Scored], finish_reason: str | None) -> ChatChunk:
        """See `Shape`."""
        reader = self._readers[index]
        found = reader.push(text)
        if finish_reason is not None:
            found += reader.flush()
        text, calls = _apart(found)
        deltas = [
            ToolCallDelta(
                index=self._calls[index] + number,
                id=call.id,
                type="function",
                function=FunctionCallDelta(name=call.function.name, arguments=call.function.arguments),
            )
            for number, call in enumerate(calls)
        ]
        self._calls[index] += len(calls)
        fields: dict[str, Any] = ({"content": text} if text else {}) | ({"tool_calls": deltas} if deltas else {})
        reason = None if finish_reason is None else _reason(finish_reason, has_called=self._calls[index] > 0)
        return self.chunk_of(index, ChatDelta(**fields), tokens, reason)


def _apart(found: Sequence[str | Call]) -> tuple[str, list[ToolCalled]]:
    """The text and the calls of a part of an answer."""
    calls = [one for one in found if isinstance(one, Call)]
    return "".join(one for one in found if isinstance(one, str)), [
        ToolCalled(id=_new_id(), function=FunctionCall(name=call.name, arguments=call.arguments)) for call in calls
    ]


def _reason(reason: str, *, has_called: bool) -> str:
    return "tool_calls" if reason == "stop" and has_called else reason


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"
