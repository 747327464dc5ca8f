"""Looks into what XLA made of a program."""

import re
from collections import Counter
from collections.abc import Iterator

import jax.numpy as jnp
from jax.stages import Compiled

from kernels_pallas.gate.case import Case

_COPY = re.compile(r"%?([\w.-]+) = (\w+)\[([\d,]*)\]\S* (copy|transpose|copy-start)\(")
_COLLECTIVE = re.compile(r" = .*? (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
_HLO_NAMES = {"bf16": "bfloat16", "f32": "float32", "f16": "float16", "s8": "int8", "s32": "int32", "u8": "uint8"}


def error_of(case: Case, compiled: Compiled) -> str | None:
    """What is wrong with a program: a copy of the page pool, or an operation between devices too many or missing."""
    text = compiled.as_text() or ""
    copies = [name for name, size_bytes in _copies(text) if size_bytes >= case.pool_bytes]
    if copies:
        return f"copies as large as the page pool: {', '.join(copies)}"
    if temp_bytes(compiled) >= case.pool_bytes:
        return f"{temp_bytes(compiled)} bytes of temporary memory, as much as the page pool"
    found = Counter(_COLLECTIVE.findall(text))
    if found != case.collectives:
        return f"between devices it has {dict(found)}, but should have {dict(case.collectives)}"
    return None


def temp_bytes(compiled: Compiled) -> int:
    """Device memory beside arguments and results; 0 if the compiler does not tell."""
    analysis = compiled.memory_analysis()
    return 0 if analysis is None else int(analysis.temp_size_in_bytes)


def _copies(text: str) -> Iterator[tuple[str, int]]:
    for name, dtype, shape, _ in _COPY.findall(text):
        elements = 1
        for length in filter(None, shape.split(",")):
            elements *= int(length)
        itemsize = jnp.dtype(_HLO_NAMES[dtype]).itemsize if dtype in _HLO_NAMES else 1
        yield name, elements * itemsize
