"""Grids: every combination of some values, as options or as a TOML file give them."""

import tomllib
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from s2l_jax.core.errors import InvalidArgument
from workloads.sweep.cell import FIELDS, Cell


def cells_of(values: Mapping[str, Any]) -> list[Cell]:
    """All combinations; the last key varies fastest.

    Args:
      values: for fields of `Cell`, one value or a list of them.

    Raises:
      InvalidArgument: a key is no field, a list is empty, or a value is not possible.
    """
    if unknown := sorted(set(values) - set(FIELDS)):
        raise InvalidArgument(f"{unknown[0]!r} is not known; expected some of {', '.join(FIELDS)}")
    lists = {name: value if isinstance(value, list | tuple) else [value] for name, value in values.items()}
    if empty := [name for name, value in lists.items() if not value]:
        raise InvalidArgument(f"{empty[0]} has no value; expected one or more")
    return [Cell(**dict(zip(lists, combination, strict=True))) for combination in product(*lists.values())]


def read_grids(path: Path) -> list[Cell]:
    """Reads a TOML file of `[[grid]]` tables, each a combination of its own; a cell that comes twice counts once.

    Raises:
      InvalidArgument: the file cannot be read, or a grid is wrong; the message names file and grid.
    """
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidArgument(f"{path}: {error}; expected a TOML file with [[grid]] tables") from None
    grids = value.pop("grid", None)
    if value or not isinstance(grids, list) or not grids:
        raise InvalidArgument(f"{path}: expected [[grid]] tables and nothing else")
    cells: dict[Cell, None] = {}
    for number, grid in enumerate(grids, start=1):
        try:
            cells |= dict.fromkeys(cells_of(grid))
        except InvalidArgument as error:
            raise InvalidArgument(f"{path}: grid {number} ({grid.get('grid', 'unnamed')}): {error}") from None
    return list(cells)
