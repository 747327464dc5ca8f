"""A growing sequence of token ids, and the block table beside it."""

from collections.abc import Sequence

import numpy as np


class Int32Buffer:
    """An int32 array that grows at its end in amortised O(added), and shrinks for free."""

    __slots__ = ("_data", "_length")

    def __init__(self) -> None:
        self._data = np.empty(16, np.int32)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def view(self) -> np.ndarray:
        """The values as int32 `[len]`, without a copy: valid until the next change."""
        return self._data[: self._length]

    def copy(self, start: int, end: int) -> np.ndarray:
        """A copy of `[start, end)`."""
        return self._data[start:end].copy()

    def push(self, value: int) -> None:
        """Adds one value."""
        self._reserve(self._length + 1)
        self._data[self._length] = value
        self._length += 1

    def extend(self, values: Sequence[int] | np.ndarray) -> None:
        """Adds values."""
        end = self._length + len(values)
        self._reserve(end)
        self._data[self._length : end] = values
        self._length = end

    def truncate(self, length: int) -> np.ndarray:
        """Keeps the first `length` values and returns a copy of the others."""
        tail = self.copy(length, self._length)
        self._length = min(length, self._length)
        return tail

    def _reserve(self, length: int) -> None:
        if length > len(self._data):
            grown = np.empty(max(length, 2 * len(self._data)), np.int32)
            grown[: self._length] = self.view
            self._data = grown


def common_prefix(left: np.ndarray, right: np.ndarray) -> int:
    """Length of the longest common prefix of two 1-d arrays."""
    length = min(len(left), len(right))
    differs = left[:length] != right[:length]
    return int(differs.argmax()) if differs.any() else length
