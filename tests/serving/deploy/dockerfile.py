"""Reads a Dockerfile: its stages and their instructions."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Stage:
    """One stage: what it starts from, its name, and what follows as (instruction, rest of the line)."""

    base: str
    name: str
    instructions: tuple[tuple[str, str], ...]

    def all(self, instruction: str) -> list[str]:
        return [rest for found, rest in self.instructions if found == instruction]


def read_stages(path: Path) -> dict[str, Stage]:
    """The stages of a Dockerfile by name, in their order."""
    found: list[tuple[str, str, list[tuple[str, str]]]] = []
    for line in _logical_lines(path.read_text(encoding="utf-8")):
        instruction, rest = line.split(maxsplit=1)
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            found.append((base, name, []))
        else:
            found[-1][2].append((instruction, rest))
    return {name: Stage(base, name, tuple(instructions)) for base, name, instructions in found}


def lineage(stages: dict[str, Stage], name: str) -> list[Stage]:
    """A stage and the stages it starts from, the first one first."""
    stage = stages[name]
    return [*(lineage(stages, stage.base) if stage.base in stages else []), stage]


def _logical_lines(text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines()]
    kept = "\n".join(line for line in lines if line and not line.startswith("#"))
    return kept.replace("\\\n", " ").splitlines()
