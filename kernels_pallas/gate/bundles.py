"""Reads the bundles of a TPU kernel that libtpu dumps: one bundle is one issue cycle."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

_LINE = re.compile(r"^\s*(?:0x[0-9a-f]+|0)\s+([A-Z]{2})?\s*:\s*(>*)\s*(\{.*)?")
_OPERATION = re.compile(r"=\s*(?:\(pc\)\s*)?([a-z]\w*)")
_LOOP_BEGINS = "LB"
_DELAY_SLOT = "{}"


@dataclass
class Loop:
    """A loop, without the loops in it.

    Attributes:
      depth: 0 is the whole kernel.
      bundles: in its body.
      operations: how often each is issued in its body.
    """

    depth: int
    bundles: int = 0
    operations: Counter[str] = field(default_factory=Counter)

    @property
    def matmuls(self) -> int:
        """Times that a left-hand side is fed into a matrix unit."""
        return sum(count for name, count in self.operations.items() if name.startswith("vmatmul"))


def read_loops(path: Path) -> list[Loop]:
    """All loops of a file of final bundles, the kernel itself first."""
    loops = [Loop(0)]
    stack = [loops[0]]
    for line in path.read_text(encoding="utf-8").splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        label, depth, body = match.group(1), len(match.group(2)), match.group(3) or ""
        if depth == 0 and body.startswith(_DELAY_SLOT):
            depth = stack[-1].depth  # delay slots of a branch are printed without the depth of their loop
        while stack[-1].depth > depth:
            stack.pop()
        if label == _LOOP_BEGINS or depth > stack[-1].depth:
            if stack[-1].depth == depth and depth:
                stack.pop()
            loops.append(Loop(depth))
            stack.append(loops[-1])
        _count(body, stack[-1])
    return loops


def _count(body: str, loop: Loop) -> None:
    loop.bundles += 1
    for instruction in body.split(";;"):
        operation = _OPERATION.search(instruction)
        if operation is not None:
            loop.operations[operation.group(1)] += 1
