"""Fills in which tokens the samples of a plan may give, for sessions whose output is constrained.

The scheduler knows tokens but no grammars, and an engine neither vocabulary nor text. So this is done between them, on
the engine's thread and outside of the registry's lock, from the output that the scheduler had when it planned: wherever
a session has been moved, evicted or computed again, its tokens are all that its grammar's state depends on.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from s2l_jax.core.errors import InternalError, S2LError
from s2l_jax.core.plan import StepPlan, StepResult
from s2l_jax.orchestrator.open_session import OpenSession

_log = logging.getLogger(__name__)


class Constrained(NamedTuple):
    """A sample that needs a mask.

    Attributes:
      sample: which sample of the plan it is.
      session: whose.
      output: its tokens so far, int32 `[n]`.
    """

    sample: int
    session: OpenSession
    output: np.ndarray


def with_masks(
    plan: StepPlan, constrained: Sequence[Constrained]
) -> tuple[StepPlan, list[tuple[OpenSession, S2LError]]]:
    """The plan as the engine gets it, and sessions that have no mask, which are to be ended.

    Their samples are taken without one, so that nobody else loses the step.
    """
    if not constrained:
        return plan, []
    samples, failed = list(plan.samples), []
    for index, session, output in constrained:
        try:
            samples[index] = samples[index]._replace(mask=session.mask(output))
        except S2LError as error:
            failed.append((session, error))
        except Exception:  # noqa: BLE001 - a defect of one session's grammar is that session's end only
            _log.exception("session %s: its grammar failed", session.id, extra={"session": session.id})
            failed.append((session, InternalError("the constraint on this session's output failed")))
    return plan._replace(samples=tuple(samples)), failed


def as_planned(result: StepResult, plan: StepPlan) -> StepResult:
    """The result with the plan as the scheduler knows it."""
    return result if result.plan is plan else replace(result, plan=plan)
