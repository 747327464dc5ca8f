"""Sequences of named tuples that are made when somebody looks."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, overload

type Plain = tuple[Any, ...]


class Records[T: NamedTuple](Sequence[T]):
    """Named tuples of one kind. Planning makes dozens in a step, and a plain tuple takes a third of the time to make.

    Who needs only some fields of each unpacks `plain`, which is quicker, too, than reading attributes.

    Attributes:
      plain: the fields of each, in order; never changed.
    """

    __slots__ = ("_kind", "_made", "plain")

    def __init__(self, kind: type[T], plain: Sequence[Plain]) -> None:
        self._kind = kind
        self._made: tuple[T, ...] | None = None
        self.plain = plain

    def __len__(self) -> int:
        return len(self.plain)

    def __iter__(self) -> Iterator[T]:
        return iter(self._all())

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        return self._all()[index]

    def __eq__(self, other: object) -> bool:
        return self._all() == tuple(other) if isinstance(other, Sequence) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._all())

    def __repr__(self) -> str:
        return repr(self._all())

    def _all(self) -> tuple[T, ...]:
        if self._made is None:
            make: Any = self._kind._make
            self._made = tuple(map(make, self.plain))
        return self._made


def fields_of[T: NamedTuple](records: Sequence[T]) -> Iterable[Plain]:
    """The fields of each record, in order, to be unpacked."""
    return records.plain if isinstance(records, Records) else records
