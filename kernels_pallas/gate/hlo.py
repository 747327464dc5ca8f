"""Looks into what XLA made of a program."""

import re
from collections.abc import Iterator

import jax.numpy as jnp
from jax.stages import Compiled

_COPY = re.compile(r"%?([\w.-]+) = (\w+)\[([\d,]*)\]\S* (copy|transpose|copy-start)\(")
_COLLECTIVE = re.compile(r" = .*? (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
_HLO_NAMES = {"bf16": "bfloat16", "f32": "float32", "f16": "float16", "s8": "int8", "s32": "int32", "u8": "uint8"}


def large_copies(compiled: Compiled, least_bytes: int) -> list[str]:
    """Copies and transposes in the optimized program whose results have at least so many bytes."""
    return [f"{name} of {size} bytes" for name, size in _copies(compiled.as_text() or "") if size >= least_bytes]


def temp_bytes(compiled: Compiled) -> int:
    """Device memory beside arguments and results; 0 if the compiler does not tell."""
    analysis = compiled.memory_analysis()
    return 0 if analysis is None else int(analysis.temp_size_in_bytes)


def pool_error(compiled: Compiled, pool_bytes: int) -> str | None:
    """What is wrong with a program that copies a page pool."""
    copies = large_copies(compiled, pool_bytes)
    if copies:
        return f"copies as large as the page pool: {', '.join(copies)}"
    found_bytes = temp_bytes(compiled)
    return f"{found_bytes} bytes of temporary memory, as large as the page pool" if found_bytes >= pool_bytes else None


def collectives(compiled: Compiled) -> list[str]:
    """Operations between devices, in the order of the program's text."""
    return _COLLECTIVE.findall(compiled.as_text() or "")


def _copies(text: str) -> Iterator[tuple[str, int]]:
    for name, dtype, shape, _ in _COPY.findall(text):
        elements = 1
        for length in filter(None, shape.split(",")):
            elements *= int(length)
        itemsize = jnp.dtype(_HLO_NAMES[dtype]).itemsize if dtype in _HLO_NAMES else 1
        yield name, elements * itemsize
