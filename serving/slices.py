"""Slices: the devices that one engine runs on, in JetStream's notation."""

import re
from dataclasses import dataclass
from typing import Self

from s2l_jax.core.errors import InvalidArgument

_BY_PLATFORM = re.compile(r"(cpu|gpu|tpu)=([1-9]\d*)")
_BY_TYPE = re.compile(r"(v5e|v6e)-([1-9]\d*)")
_KINDS = {"v5e": "v5 lite", "v6e": "v6 lite"}
"""Parts of what the chips call themselves."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Devices that act as one: heads, feed-forward network and vocabulary are split over them.

    Attributes:
      text: as it was given.
      platform: `cpu`, `gpu` or `tpu`.
      count: how many devices.
      kind: part of what each must call itself; empty takes all.
    """

    text: str
    platform: str
    count: int
    kind: str = ""

    @classmethod
    def parse(cls, text: str, option: str = "--slices") -> Self:
        """Reads `cpu=2`, `gpu=1`, `tpu=4`, `v5e-8` or `v6e-4`.

        Args:
          text: one slice.
          option: that it was given for.

        Raises:
          InvalidArgument: it is something else.
        """
        by_platform, by_type = _BY_PLATFORM.fullmatch(text), _BY_TYPE.fullmatch(text)
        if by_platform is not None:
            return cls(text, by_platform[1], int(by_platform[2]))
        if by_type is not None:
            return cls(text, "tpu", int(by_type[2]), _KINDS[by_type[1]])
        raise InvalidArgument(
            f"{option} has {text!r}, but a slice must look like cpu=2, gpu=1, tpu=4, v5e-8 or v6e-4; for several "
            "engines give several, with commas between"
        )

    @classmethod
    def parse_all(cls, text: str, option: str = "--slices") -> tuple[Self, ...]:
        """Reads the slices of several engines: `cpu=2,cpu=2`; errors are those of `parse`."""
        return tuple(cls.parse(part, option) for part in text.split(","))
