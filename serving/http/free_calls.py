"""Calls of functions that a model writes into free text, in the way that most open models do.

Such a call is `<tool_call>`, an object with `name` and `arguments`, and `</tool_call>`: the format of Hermes, which the
chat templates of Qwen and others ask for.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass

OPENING, CLOSING = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class Call:
    """A call: arguments are JSON."""

    name: str
    arguments: str


class FreeCallReader:
    """Finds calls in an output that comes in pieces. What is no call of a known function is text, markers included.

    White space around calls belongs to neither.

    Args:
      names: of the functions that may be called.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._held = ""  # what is not known to be text or a call yet
        self._looked = 0  # how far the end of a call has been looked for in it
        self._is_behind_call = False

    def push(self, text: str) -> list[str | Call]:
        """Takes the next piece; returns what has become certain, in order."""
        self._hold(text)
        found: list[str | Call] = []
        while (start := self._held.find(OPENING)) >= 0:
            before = self._take(len(self._held[:start].rstrip()))
            if before:
                found.append(before)
            call = self._take_call()
            if call is None:
                return found
            found.append(call)
        before = self._take(_certain(self._held))
        return [*found, before] if before else found

    def flush(self) -> list[str | Call]:
        """No more comes. A call that only lacks its end is one."""
        rest, self._held = self._held, ""
        start = rest.find(OPENING)
        call = None if start < 0 else self._call_of(rest[start + len(OPENING) :])
        if call is not None:
            return [call]
        return [rest] if rest else []

    def _take_call(self) -> Call | None:
        """Takes the call that comes next, if it is complete; its arguments may hold what looks like its end."""
        body = self._held.index(OPENING) + len(OPENING)
        end = max(body, self._looked)
        while (end := self._held.find(CLOSING, end)) >= 0:
            call = self._call_of(self._held[body:end])
            end += len(CLOSING)
            if call is not None:
                rest, self._held, self._looked, self._is_behind_call = self._held[end:], "", 0, True
                self._hold(rest)
                return call
        self._looked = max(body, len(self._held) - len(CLOSING) + 1)
        return None

    def _call_of(self, body: str) -> Call | None:
        try:
            call = json.loads(body)
        except (ValueError, RecursionError):
            return None
        if not isinstance(call, dict) or call.get("name") not in self._names:
            return None
        return Call(call["name"], json.dumps(call.get("arguments", {}), ensure_ascii=False))

    def _hold(self, text: str) -> None:
        self._held += text.lstrip() if self._is_behind_call and not self._held else text

    def _take(self, length: int) -> str:
        taken, self._held = self._held[:length], self._held[length:]
        self._is_behind_call &= not taken
        return taken


def _certain(text: str) -> int:
    """How much of a text without an opening is text for certain: not what may become one, nor space at the end."""
    for length in range(min(len(OPENING) - 1, len(text)), 0, -1):
        if text.endswith(OPENING[:length]):
            text = text[:-length]
            break
    return len(text.rstrip())
