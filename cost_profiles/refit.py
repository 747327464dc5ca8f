"""Fits a profile's costs to the points that it holds."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cost_profiles.fit import LEAST_TOKEN_S, least_squares, quality
from cost_profiles.fit_padded import fit_padded
from cost_profiles.measurement import Copy, StepPoint
from cost_profiles.padding import PaddedCosts, Padding
from cost_profiles.profile import PART_TERMS, Profile
from s2l_jax.core.costs import PhysicalCosts
from s2l_jax.core.errors import InvalidArgument

COPIES: tuple[Copy, ...] = ("swap_out", "swap_in", "handoff")


def refit(profile: Profile, padding: Padding | None = None) -> Profile:
    """The profile with terms fitted anew; those that no point tells anything of stay as they are.

    Args:
      profile: with points.
      padding: of the engine that was measured; None takes what the profile says, if it does.

    Raises:
      InvalidArgument: there are no points.
    """
    if not (profile.steps or profile.copies):
        raise InvalidArgument(f"{profile.name} holds no points, so there is nothing to fit: it was not measured")
    if profile.steps:
        profile = _with_steps(profile)
    for kind in COPIES:
        profile = _with_copies(profile, kind)
    if padding is None and profile.padded is not None:
        padding = profile.padded.padding
    detailed = detailed_points(profile)
    if padding is None or not detailed:
        return profile
    works = [point.work for point in detailed if point.work is not None]
    return replace(profile, padded=fit_padded(works, [point.seconds for point in detailed], padding))


def forward_points(profile: Profile) -> list[StepPoint]:
    """Points of steps that run something through the model; those that only sample have a shape without work."""
    return [point for point in profile.steps if any(point.shape)]


def detailed_points(profile: Profile) -> list[StepPoint]:
    """Points of steps whose work is known."""
    return [point for point in profile.steps if point.work is not None]


def copy_seconds(costs: PhysicalCosts, kind: Copy, blocks: int) -> float:
    """What costs say of a copy."""
    return {"swap_out": costs.swap_out, "swap_in": costs.swap_in, "handoff": costs.handoff}[kind](blocks)


def padded_quality(profile: Profile, padded: PaddedCosts) -> tuple[float, float]:
    """R² and largest relative error of costs of padded work on the profile's points."""
    points = detailed_points(profile)
    predicted_s = [padded.step(point.work) for point in points if point.work is not None]
    return quality(predicted_s, [point.seconds for point in points])


def _with_steps(profile: Profile) -> Profile:
    points = forward_points(profile)
    names = PART_TERMS["steps"]
    terms = np.array([(1.0, *point.shape) for point in points])
    told = [index for index in range(len(names)) if terms[:, index].any()]
    fitted = least_squares(terms[:, told], np.array([point.seconds for point in points]))
    changes = {names[index]: value for index, value in zip(told, fitted, strict=True)}
    if "token_s" in changes:
        changes["token_s"] = max(changes["token_s"], LEAST_TOKEN_S)
    costs = replace(profile.costs, **changes)
    predicted_s = [costs.step(point.shape) for point in points]
    return _with_part(replace(profile, costs=costs), "steps", predicted_s, [point.seconds for point in points])


def _with_copies(profile: Profile, kind: Copy) -> Profile:
    points = [point for point in profile.copies if point.kind == kind]
    if not points:
        return profile
    seconds = [point.seconds for point in points]
    fitted = least_squares(np.array([(1.0, point.blocks) for point in points]), np.array(seconds))
    costs = replace(profile.costs, **dict(zip(PART_TERMS[kind], fitted, strict=True)))
    predicted_s = [copy_seconds(costs, kind, point.blocks) for point in points]
    return _with_part(replace(profile, costs=costs), kind, predicted_s, seconds)


def _with_part(profile: Profile, name: str, predicted_s: Sequence[float], seconds: Sequence[float]) -> Profile:
    r_squared, worst_error = quality(predicted_s, seconds)
    part = replace(profile.parts[name], r_squared=r_squared, worst_error=worst_error)
    return replace(profile, parts={**profile.parts, name: part})
