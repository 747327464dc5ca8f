"""What an output must look like, as its client asks for it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from s2l_jax.core.errors import InvalidArgument

MAX_CONSTRAINT_CHARS = 64 << 10
MAX_CHOICES = 1000


class InvalidConstraint(InvalidArgument):
    """What an output must look like cannot be."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """A language that the whole output belongs to. Whether it makes sense is found out where it is compiled.

    Attributes:
      kind: `json`, `regex` or `choice`.
      text: a JSON schema; a regular expression; or a JSON list of texts.

    Raises:
      InvalidConstraint: there is no such kind, or the text is empty or too long.
    """

    kind: Literal["json", "regex", "choice"]
    text: str

    def __post_init__(self) -> None:
        if self.kind not in ("json", "regex", "choice"):
            raise InvalidConstraint(f"a constraint of kind {self.kind!r} is not known: give json, regex or choice")
        if not 0 < len(self.text) <= MAX_CONSTRAINT_CHARS:
            raise InvalidConstraint(
                f"the {self.kind} constraint has {len(self.text)} characters, but must have 1 to {MAX_CONSTRAINT_CHARS}"
            )

    @property
    def texts(self) -> tuple[str, ...]:
        """What a choice is among; of another kind there are none."""
        return tuple(json.loads(self.text)) if self.kind == "choice" else ()

    @classmethod
    def json(cls, schema: Mapping[str, Any] | str) -> Self:
        """JSON of a schema, given as such or as text.

        Raises:
          InvalidConstraint: it is too long, or holds what JSON cannot.
        """
        return cls("json", schema if isinstance(schema, str) else _dumped(schema))

    @classmethod
    def json_object(cls) -> Self:
        """Any JSON object."""
        return cls("json", '{"type":"object"}')

    @classmethod
    def regex(cls, pattern: str) -> Self:
        """A text that matches a regular expression from its beginning to its end.

        Raises:
          InvalidConstraint: it is too long.
        """
        return cls("regex", pattern)

    @classmethod
    def choice(cls, texts: Sequence[str]) -> Self:
        """One of some texts.

        Raises:
          InvalidConstraint: there are none or too many, one of them is empty, or together they are too long.
        """
        if not 0 < len(texts) <= MAX_CHOICES or not all(texts):
            raise InvalidConstraint(
                f"choice has {len(texts)} texts, {sum(map(bool, texts))} of them not empty, but must have 1 to "
                f"{MAX_CHOICES}, none of them empty"
            )
        return cls("choice", _dumped(list(texts)))


def _dumped(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidConstraint(f"the constraint is no JSON: {error}") from error
