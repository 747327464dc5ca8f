"""Reads latencies as the artifact of Stream2LLM keeps them (github.com/rajveerb/stream2llm, a fork of vLLM).

Its engine writes two files: `recomputation_latencies` by number of tokens of a request, and `swap_in_latency` and
`swap_out_latency` by number of tokens whose blocks are copied. Each number has a list of milliseconds, one a repeat,
and for swaps one a repeat and GPU, whose copies run side by side. `metadata` says the model, the tensor parallel size
and the token budget of a step.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from cost_profiles.fit import LEAST_TOKEN_S, least_squares, quality
from cost_profiles.measurement import Copy, CopyPoint, StepPoint
from cost_profiles.profile import PART_TERMS, Part, Profile
from s2l_jax.core.costs import PhysicalCosts, StepShape
from s2l_jax.core.errors import InvalidArgument

_RECOMPUTATION = "recomputation_latencies"
_SWAPS: Mapping[Copy, str] = {"swap_out": "swap_out_latency", "swap_in": "swap_in_latency"}
_FITTED = ("step_s", "token_s", "attended_s")
_BUDGET = "max_num_batched_tokens"


@dataclass(frozen=True, slots=True)
class LatencyFile:
    """One file of the artifact.

    Attributes:
      name: of the file, for messages.
      seconds: by what was timed, then by tokens: the median of the repeats.
      metadata: what the file says about the run; may be empty.
    """

    name: str
    seconds: Mapping[str, Mapping[int, float]]
    metadata: Mapping[str, Any]


def read_latencies(path: Path, keys: Sequence[str]) -> LatencyFile:
    """Reads a file that has these keys.

    Raises:
      InvalidArgument: it cannot be read, or has something else; the message names the file and the key.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidArgument(f"{path}: {error}; expected JSON with {' and '.join(keys)}") from None
    if not isinstance(value, dict):
        raise InvalidArgument(f"{path}: expected an object with {' and '.join(keys)}")
    metadata = value.get("metadata", {})
    if not isinstance(metadata, dict):
        raise InvalidArgument(f"{path}: metadata: expected an object, found {metadata!r:.60}")
    return LatencyFile(str(path), {key: _medians(path, key, value.get(key)) for key in keys}, metadata)


def import_latencies(base: Profile, recomputation: Path | None, swap: Path | None, name: str) -> Profile:
    """The base with the parts that the files tell; the others stay, with their provenance.

    Args:
      base: of the same model and number of devices.
      recomputation: tells prefill; terms of decode stay the base's.
      swap: tells both directions of swapping.
      name: of the new profile.

    Raises:
      InvalidArgument: neither file is given, one cannot be used, or is of another tensor parallel size than the base.
    """
    if recomputation is None and swap is None:
        raise InvalidArgument("there is nothing to import: give the file of recomputation, of swaps, or both")
    profile = replace(base, name=name)
    if recomputation is not None:
        file = read_latencies(recomputation, (_RECOMPUTATION,))
        profile = _with_steps(profile, file)
    if swap is not None:
        file = read_latencies(swap, tuple(_SWAPS.values()))
        for kind in _SWAPS:
            profile = _with_copies(profile, file, kind)
    return profile


def _medians(path: Path, key: str, value: Any) -> dict[int, float]:
    """Median seconds by tokens, in order of tokens."""
    expected = "expected an object of token counts, each with a list of milliseconds above 0"
    if not isinstance(value, dict) or not value:
        found = "nothing" if value is None else f"{value!r:.60}"
        raise InvalidArgument(f"{path}: {key}: {expected}; found {found}")
    medians = {}
    for tokens, repeats in value.items():
        if not (tokens.isdecimal() and int(tokens)):
            raise InvalidArgument(f"{path}: {key}: {expected}; found the count {tokens!r}")
        good = isinstance(repeats, list) and repeats and all(_is_latency(one) for one in repeats)
        if not good:
            raise InvalidArgument(f"{path}: {key}: {tokens}: {expected}; found {repeats!r:.60}")
        medians[int(tokens)] = median(repeats) / 1e3
    return dict(sorted(medians.items()))


def _is_latency(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def _with_steps(profile: Profile, file: LatencyFile) -> Profile:
    """Fits prefill. A request of more tokens than one step may have was timed for its first step only: left out."""
    _check_metadata(profile, file)
    seconds = dict(file.seconds[_RECOMPUTATION])
    budget = file.metadata.get(_BUDGET)
    too_long = [count for count in seconds if isinstance(budget, int) and count > budget]
    for count in too_long:
        del seconds[count]
    _check_points(file, _RECOMPUTATION, seconds, len(_FITTED), f" up to {_BUDGET} = {budget}" if too_long else "")
    tokens = np.array(list(seconds), np.float64)
    terms = np.column_stack([np.ones(len(tokens)), tokens, tokens**2 / 2])
    fitted = dict(zip(_FITTED, least_squares(terms, np.array(list(seconds.values()))), strict=True))
    fitted["token_s"] = max(fitted["token_s"], LEAST_TOKEN_S)
    costs = replace(profile.costs, **fitted)
    points = tuple(StepPoint(StepShape(count, count * count / 2), took_s) for count, took_s in seconds.items())
    old = profile.parts["steps"]
    kept = ", ".join(term for term in PART_TERMS["steps"] if term not in _FITTED)
    source = f"{_describe(file)}; {kept} as before ({old.provenance}: {old.source})"
    if too_long:
        source += f"; {len(too_long)} requests longer than {budget} tokens left out, being timed for one step only"
    part = Part("imported", source, *quality([costs.step(point.shape) for point in points], list(seconds.values())))
    return replace(profile, costs=costs, parts={**profile.parts, "steps": part}, steps=points, residuals=())


def _with_copies(profile: Profile, file: LatencyFile, kind: Copy) -> Profile:
    """Fits one direction of swapping, in whole blocks."""
    _check_metadata(profile, file)
    key = _SWAPS[kind]
    block = profile.memory.block_tokens
    points = tuple(CopyPoint(kind, -(-tokens // block), took_s) for tokens, took_s in file.seconds[key].items())
    _check_points(file, key, {point.blocks for point in points}, len(PART_TERMS[kind]), f" in blocks of {block} tokens")
    seconds = [point.seconds for point in points]
    fitted = least_squares(np.array([(1.0, point.blocks) for point in points]), np.array(seconds))
    costs: PhysicalCosts = replace(profile.costs, **dict(zip(PART_TERMS[kind], fitted, strict=True)))
    predict = costs.swap_out if kind == "swap_out" else costs.swap_in
    part = Part("imported", _describe(file), *quality([predict(point.blocks) for point in points], seconds))
    others = tuple(point for point in profile.copies if point.kind != kind)
    return replace(profile, costs=costs, parts={**profile.parts, kind: part}, copies=others + points)


def _check_metadata(profile: Profile, file: LatencyFile) -> None:
    size = file.metadata.get("tensor_parallel_size")
    if size is not None and size != profile.devices:
        raise InvalidArgument(
            f"{file.name}: metadata: tensor_parallel_size is {size!r}, but the base has {profile.devices} devices: "
            f"give a base of as many"
        )


def _check_points(file: LatencyFile, key: str, counts: Collection[int], least: int, which: str) -> None:
    if len(counts) < least:
        raise InvalidArgument(
            f"{file.name}: {key}: {len(counts)} different token counts{which}, "
            f"but {least} terms are fitted, which takes at least {least}"
        )


def _describe(file: LatencyFile) -> str:
    known = ("model_name", "tensor_parallel_size")
    said = ", ".join(f"{key} {file.metadata[key]}" for key in known if key in file.metadata)
    return f"{Path(file.name).name} of the Stream2LLM artifact" + (f" ({said})" if said else "")
