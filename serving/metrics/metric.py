"""What a metric is declared with."""

import re
from dataclasses import dataclass
from typing import Literal

from s2l_jax.core.errors import InvalidArgument

type Kind = Literal["counter", "gauge", "histogram", "summary", "info"]

PREFIX = "s2l_"
VLLM_PREFIX = "vllm:"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_UNITS = ("seconds", "bytes", "tokens", "blocks")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric, and the names it is exported under.

    Attributes:
      name: its own name.
      kind: as Prometheus has it.
      help: what it says, with the unit where the name has none.
      labels: its own labels; those of the server are added to them.
      buckets: upper bounds of a histogram, rising, without the infinite one.
      vllm: the name of what means the same at vLLM, if anything does: `vllm:...`.
      also: names under which the same numbers are always exported as well.

    Raises:
      InvalidArgument: the declaration breaks a rule of Prometheus, or of this project.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    vllm: str = ""
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (self.name, *self.also, *self.labels, self.vllm.removeprefix(VLLM_PREFIX) or "none"):
            if not _NAME.fullmatch(name):
                self._refuse(f"{name!r} is no name: take small letters, digits and underscores")
        if (self.kind == "counter") != self.name.endswith("_total"):
            self._refuse("the names of counters end in _total, and no others do")
        if self.kind == "info" and not self.name.endswith("_info"):
            self._refuse("the names of infos end in _info")
        if (self.kind == "histogram") != bool(self.buckets) or list(self.buckets) != sorted(set(self.buckets)):
            self._refuse("histograms have buckets, rising, and no others do")
        if not self.help.endswith(".") or "\n" in self.help:
            self._refuse("the help is a sentence on one line")

    @property
    def names(self) -> tuple[str, ...]:
        """All names that are always exported."""
        return (self.name, *self.also)

    @property
    def unit(self) -> str:
        """The unit that its name ends in, if any."""
        last = self.name.removesuffix("_total").rsplit("_", 1)[-1]
        return last if last in _UNITS else ""

    def _refuse(self, why: str) -> None:
        raise InvalidArgument(f"metric {self.name!r}: {why}")
