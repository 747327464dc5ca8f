"""Fits sums of physical terms to measured seconds. No term may be negative: work never gives time back."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from cost_profiles.measurement import Copy, CopyPoint, Measurement, StepPoint
from s2l_jax.core.costs import PhysicalCosts

LEAST_TOKEN_S = 1e-9  # a token costs something, whatever the points say


def fit(steps: Sequence[StepPoint], copies: Sequence[CopyPoint]) -> Measurement:
    """The profile of these points. Copies that nobody measured cost nothing, so there must be none to decide on.

    Args:
      steps: at least two different ones.
      copies: may be empty.
    """
    shapes = np.array([point.shape for point in steps], np.float64)
    seconds = np.array([point.seconds for point in steps])
    terms = np.column_stack([np.ones(len(steps)), shapes])
    step_s, token_s, attended_s, decode_s, decode_context_s = least_squares(terms, seconds)
    swap_out_s, swap_out_block_s = _fit_copies(copies, "swap_out")
    swap_in_s, swap_in_block_s = _fit_copies(copies, "swap_in")
    costs = PhysicalCosts(
        step_s=step_s,
        token_s=max(token_s, LEAST_TOKEN_S),
        attended_s=attended_s,
        decode_s=decode_s,
        decode_context_s=decode_context_s,
        swap_out_s=swap_out_s,
        swap_out_block_s=swap_out_block_s,
        swap_in_s=swap_in_s,
        swap_in_block_s=swap_in_block_s,
    )
    r_squared, worst_error = quality([costs.step(point.shape) for point in steps], seconds)
    return Measurement(costs, tuple(steps), tuple(copies), r_squared, worst_error)


def quality(predicted_s: Sequence[float], seconds: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """How well costs fit: the share of the variance that they explain, and their largest relative error.

    Args:
      predicted_s: by the costs.
      seconds: measured, above 0.
    """
    measured_s = np.asarray(seconds, np.float64)
    errors_s = np.asarray(predicted_s) - measured_s
    spread = float(((measured_s - measured_s.mean()) ** 2).sum())
    r_squared = 1.0 - float((errors_s**2).sum()) / spread if spread else 1.0
    return r_squared, float(np.abs(errors_s / measured_s).max())


def least_squares(terms: np.ndarray, seconds: np.ndarray) -> list[float]:
    """Coefficients, none negative, whose relative errors have the least sum of squares.

    Relative, because a decode of 30 ms matters as much as a prefill of a second. With so few terms, trying each subset
    of them is the simplest exact method.

    Args:
      terms: float64 `[points, terms]`.
      seconds: float64 `[points]`, above 0.
    """
    rows = terms / seconds[:, None]
    # Columns of like size, so that the solver's cut-off for small singular values means the same for each.
    scale = np.maximum(np.abs(rows).max(axis=0), np.finfo(np.float64).tiny)
    rows = rows / scale
    count = terms.shape[1]
    best, least = np.zeros(count), float("inf")
    for size in range(1, count + 1):
        for chosen in map(list, combinations(range(count), size)):
            found = np.linalg.lstsq(rows[:, chosen], np.ones(len(rows)))[0]
            error = float(((rows[:, chosen] @ found - 1.0) ** 2).sum())
            if found.min() >= 0 and error < least:
                least = error
                best = np.zeros(count)
                best[chosen] = found
    return (best / scale).tolist()


def _fit_copies(copies: Sequence[CopyPoint], kind: Copy) -> list[float]:
    points = [point for point in copies if point.kind == kind]
    if not points:
        return [0.0, 0.0]
    terms = np.array([(1.0, point.blocks) for point in points])
    return least_squares(terms, np.array([point.seconds for point in points]))
