"""Sequences of int32 that change cheaply: token ids, block tables, free lists."""

from collections.abc import Sequence

import numpy as np

_LEAST = 64


class Int32Buffer:
    """An int32 array that grows at its end in amortised O(added), and shrinks in O(kept).

    Attributes:
      view: the values, int32 `[size]`, without a copy. What a view shows never changes: later values go behind it, or,
        after `truncate`, into another array. So plans may hold views.
      size: how many there are.
    """

    __slots__ = ("_data", "size", "view")

    def __init__(self) -> None:
        self._data = np.empty(_LEAST, np.int32)
        self.size = 0
        self.view = self._data[:0]

    def __len__(self) -> int:
        return self.size

    def push(self, value: int) -> None:
        """Adds one value."""
        end = self.size + 1
        if end > len(self._data):
            self._grow(end)
        self._data[self.size] = value
        self.size = end
        self.view = self._data[:end]

    def extend(self, values: Sequence[int] | np.ndarray) -> None:
        """Adds values."""
        end = self.size + len(values)
        if end > len(self._data):
            self._grow(end)
        self._data[self.size : end] = values
        self.size = end
        self.view = self._data[:end]

    def truncate(self, length: int) -> np.ndarray:
        """Keeps the first `length` values and returns the others."""
        tail = self.view[length:]
        if tail.size:
            self._data = self.view = self.view[:length].copy()
            self.size = length
        return tail

    def _grow(self, length: int) -> None:
        grown = np.empty(max(length, 2 * self.size, _LEAST), np.int32)
        grown[: self.size] = self.view
        self._data = grown


class Int32Ring:
    """A first-in-first-out queue of at most as many values as it was made with, in O(values moved) without a loop.

    Attributes:
      size: how many values there are.
    """

    __slots__ = ("_data", "_head", "size")

    def __init__(self, values: np.ndarray) -> None:
        self._data = values
        self._head = 0
        self.size = len(values)

    def __len__(self) -> int:
        return self.size

    def pop(self, count: int) -> np.ndarray:
        """Takes the `count` oldest values out, int32 `[count]`.

        Raises:
          RuntimeError: there are fewer.
        """
        if count > self.size:
            raise RuntimeError(f"{count} values wanted, {self.size} are there")
        data, head = self._data, self._head
        end, wrap = head + count, len(data)
        if end < wrap:
            values = data[head:end].copy()
            self._head = end
        else:
            values = np.concatenate([data[head:], data[: end - wrap]])
            self._head = end - wrap
        self.size -= count
        return values

    def pop_one(self) -> int:
        """Takes the oldest value out.

        Raises:
          RuntimeError: there is none.
        """
        if not self.size:
            raise RuntimeError("a value wanted, none is there")
        value: int = self._data.item(self._head)
        self._head = (self._head + 1) % len(self._data)
        self.size -= 1
        return value

    def push(self, values: Sequence[int]) -> None:
        """Adds values behind the others.

        Raises:
          RuntimeError: there is no room for them.
        """
        wrap, count = len(self._data), len(values)
        if self.size + count > wrap:
            raise RuntimeError(f"{count} values more than the {self.size} of {wrap} that are there")
        start = (self._head + self.size) % wrap
        before_wrap = min(count, wrap - start)
        self._data[start : start + before_wrap] = values[:before_wrap]
        self._data[: count - before_wrap] = values[before_wrap:]
        self.size += count

    def values(self) -> list[int]:
        """All values, oldest first."""
        return np.roll(self._data, -self._head)[: self.size].tolist()


def common_prefix(left: np.ndarray, right: np.ndarray) -> int:
    """Length of the longest common prefix of two 1-d arrays."""
    length = min(len(left), len(right))
    differs = left[:length] != right[:length]
    return int(differs.argmax()) if differs.any() else length
