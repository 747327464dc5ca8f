"""How far predictions stay from measured seconds, by kind of work."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cost_profiles.profile import Profile
from cost_profiles.refit import copy_seconds, detailed_points, forward_points
from cost_profiles.work import Work

Model = Literal["sums", "padded"]
"""What predicts: `sums` of a step's shape are what the scheduler reckons with, `padded` work is what is simulated."""

KINDS = ("prefill", "decode", "mixed", "sample", "swap_out", "swap_in", "handoff")


@dataclass(frozen=True, slots=True)
class Deviation:
    """One measured step or copy, and what was predicted.

    Attributes:
      kind: one of `KINDS`.
      model: what predicted it; copies are `sums`.
      what: the work, in words.
      measured_s: what it took.
      predicted_s: what was expected.
    """

    kind: str
    model: Model
    what: str
    measured_s: float
    predicted_s: float

    @property
    def relative_error(self) -> float:
        """Above 0 if the prediction is too slow."""
        return self.predicted_s / self.measured_s - 1.0


@dataclass(frozen=True, slots=True)
class KindErrors:
    """Errors of one kind of work.

    Attributes:
      kind: one of `KINDS`.
      model: what predicted.
      count: how many were measured.
      bias: mean of the relative errors; above 0 if predictions are too slow.
      median: of their absolute values.
      p90: a tenth of them is larger.
      worst: the largest.
      worst_of: the work that has it.
    """

    kind: str
    model: Model
    count: int
    bias: float
    median: float
    p90: float
    worst: float
    worst_of: str


def deviations(profile: Profile) -> list[Deviation]:
    """Of all of a profile's points; sums do not tell what sampling alone costs."""
    costs, padded = profile.costs, profile.padded
    found = [
        Deviation(_kind(point.work), "sums", describe(point.work), point.seconds, costs.step(point.shape))
        for point in forward_points(profile)
    ]
    if padded is not None:
        found += [
            Deviation(point.work.kind, "padded", describe(point.work), point.seconds, padded.step(point.work))
            for point in detailed_points(profile)
            if point.work is not None
        ]
    found += [
        Deviation(copy.kind, "sums", f"{copy.blocks} blocks", copy.seconds, copy_seconds(costs, copy.kind, copy.blocks))
        for copy in profile.copies
    ]
    return found


def by_kind(found: Iterable[Deviation]) -> list[KindErrors]:
    """Errors of each kind and model that occurs, in the order of `KINDS`."""
    groups: dict[tuple[str, Model], list[Deviation]] = {}
    for one in found:
        groups.setdefault((one.kind, one.model), []).append(one)
    in_order = sorted(groups.items(), key=lambda item: (KINDS.index(item[0][0]), item[0][1] == "padded"))
    return [_errors(kind, model, group) for (kind, model), group in in_order]


def describe(work: Work | None) -> str:
    """Work in a few words."""
    if work is None:
        return "a step known by its sums"
    parts = [f"{tokens} tokens behind {context}" for tokens, context in work.chunks[:2]]
    if len(work.chunks) > 2:
        parts.append(f"{len(work.chunks) - 2} more chunks")
    if work.decodes:
        parts.append(f"{len(work.decodes)} decodes behind {max(work.decodes)} at most")
    if work.samples and not work.decodes:
        parts.append(f"{work.samples} sampled")
    return ", ".join(parts)


def _kind(work: Work | None) -> str:
    return "prefill" if work is None else work.kind


def _errors(kind: str, model: Model, group: Sequence[Deviation]) -> KindErrors:
    errors = np.array([one.relative_error for one in group])
    worst = int(np.abs(errors).argmax())
    median, p90 = np.percentile(np.abs(errors), [50, 90]).tolist()
    return KindErrors(
        kind, model, len(group), float(errors.mean()), median, p90, float(abs(errors[worst])), group[worst].what
    )
