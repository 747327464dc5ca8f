"""Reads dataclasses back from JSON, with errors that name the field."""

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from s2l_jax.core.errors import InvalidArgument

_SCALARS: Mapping[Any, tuple[type | tuple[type, ...], str]] = {
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    str: (str, "text"),
}


def read_record[T](kind: type[T], value: Any, where: str = "") -> T:
    """Reads what `dataclasses.asdict` gave, after a trip through JSON.

    A field may be left out if its default says nothing (None, nothing in it, 0); other defaults are not taken, so that
    no file means what it does not say.

    Args:
      kind: a dataclass of numbers, text, named tuples, dataclasses, and tuples and mappings of these.
      value: a JSON object.
      where: it is, for messages; empty at the top.

    Raises:
      InvalidArgument: it is something else; the message names the field.
    """
    if not isinstance(value, Mapping):
        raise InvalidArgument(f"{where or 'it'} is {value!r:.60}, but must be an object")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for name in value:
        if name not in known:
            raise InvalidArgument(f"{_join(where, name)} is not known; known are {', '.join(known)}")
    for name, field in known.items():
        if name not in value and not _may_be_left_out(field):
            raise InvalidArgument(f"{_join(where, name)} is missing")
    hints = get_type_hints(kind)
    given = {name: _read(hints[name], value[name], _join(where, name)) for name in known if name in value}
    try:
        return kind(**given)
    except InvalidArgument as error:
        raise InvalidArgument(f"{where}: {error}" if where else f"{error}") from None


def _read(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint in _SCALARS:
        return _read_scalar(hint, value, where)
    if isinstance(hint, type) and is_dataclass(hint):
        return read_record(hint, value, where)
    if origin is Literal:
        if value not in args:
            raise InvalidArgument(f"{where} is {value!r:.60}, but must be one of {', '.join(args)}")
        return value
    if origin in {Union, types.UnionType}:  # with None, and nothing else
        return None if value is None else _read(args[0], value, where)
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise InvalidArgument(f"{where} is {value!r:.60}, but must be an object")
        return {name: _read(args[1], one, _join(where, name)) for name, one in value.items()}
    if origin is tuple or hasattr(hint, "_fields"):
        return _read_tuple(hint, value, where)
    return value


def _read_scalar(hint: Any, value: Any, where: str) -> Any:
    accepted, words = _SCALARS[hint]
    good = isinstance(value, accepted) and not isinstance(value, bool)
    if not good or (hint is float and not math.isfinite(value)):
        raise InvalidArgument(f"{where} is {value!r:.60}, but must be {words}")
    return value


def _read_tuple(hint: Any, value: Any, where: str) -> Any:
    """A tuple of any length, of a given length, or with names."""
    if not isinstance(value, list | tuple):
        raise InvalidArgument(f"{where} is {value!r:.60}, but must be a list")
    if hasattr(hint, "_fields"):
        kinds = [get_type_hints(hint)[name] for name in hint._fields]
    else:
        kinds = list(get_args(hint))
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(value)
    if len(value) != len(kinds):
        raise InvalidArgument(f"{where} is {value!r:.60}, but must be a list of {len(kinds)}")
    read = [_read(kind, one, f"{where}[{index}]") for index, (kind, one) in enumerate(zip(kinds, value, strict=True))]
    return hint(*read) if hasattr(hint, "_fields") else tuple(read)


def _may_be_left_out(field: Field[Any]) -> bool:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return default is not MISSING and not default


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
