"""The full measurement of a machine: from timed trials to a profile."""

import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from cost_profiles.measurement import CopyPoint, StepPoint
from cost_profiles.padding import Padding
from cost_profiles.profile import PARTS, Part, Profile, ProfileMemory
from cost_profiles.refit import copy_seconds, refit
from cost_profiles.rounds import QUIET_CORES, Pace, Timed
from cost_profiles.served import ServedStep
from s2l_jax.core.costs import PhysicalCosts

_HANDOFF = "device to host to device, on one host: what two engines pay that share nothing but its memory"
_SOFTWARE = ("s2l-jax", "jax", "numpy")


@dataclass(frozen=True, slots=True)
class Subject:
    """What was measured.

    Attributes:
      name: of the profile.
      model: name of the model.
      hardware: in words.
      devices: how many chips.
      dtype: of weights and KV.
      memory: of all devices.
      max_model_len: tokens of prompt and output together, at most.
      padding: of the engine.
    """

    name: str
    model: str
    hardware: str
    devices: int
    dtype: str
    memory: ProfileMemory
    max_model_len: int
    padding: Padding


def profile_of(
    subject: Subject,
    timed: Sequence[Timed],
    pace: Pace,
    latency_s: float = 0.0,
    served: Sequence[ServedStep] = (),
) -> Profile:
    """The profile of timed trials.

    Args:
      subject: what was measured.
      timed: steps, and copies unless there is no host pool; those nobody measured cost nothing and say so.
      pace: that they were timed at.
      latency_s: what a session takes beside the device's work.
      served: steps that a server ran.
    """
    steps, copies = [], []
    for one in timed:
        trial, seconds = one.trial, one.seconds(pace.repeats)
        if trial.is_whole:
            continue
        if trial.work is not None:
            steps.append(StepPoint(trial.work.shape, seconds, trial.work))
        elif trial.copy is not None:
            copies.append(CopyPoint(trial.copy, trial.blocks, seconds))
    free = dict.fromkeys((name for name in PhysicalCosts.__slots__ if name != "token_s"), 0.0)
    copied = {point.kind for point in copies}
    least = min(len(one.counted(pace.repeats)) for one in timed)
    source = f"medians of {least} repeats or more on {subject.hardware}"
    parts = {name: Part("measured", source) for name in PARTS}
    if "handoff" in copied:
        parts["handoff"] = Part("measured", f"{source}; {_HANDOFF}")
    for name in {*PARTS} - {"steps", *copied}:
        parts[name] = Part("measured", "not measured: the engine had no host pool")
    raw = Profile(
        name=subject.name,
        model=subject.model,
        hardware=subject.hardware,
        devices=subject.devices,
        dtype=subject.dtype,
        memory=subject.memory,
        max_model_len=subject.max_model_len,
        costs=PhysicalCosts(**free),
        latency_s=latency_s,
        parts=parts,
        steps=tuple(steps),
        copies=tuple(copies),
        conditions=conditions(timed, pace),
    )
    fitted = refit(raw, subject.padding)
    fitted = replace(fitted, exposed_copies=_exposed_copies(timed, pace.repeats, fitted.costs))
    in_a_row = [step for step in served if not step.is_after_idling]
    in_server = replace(fitted, serving_slowdown=slowdown(in_a_row, fitted))
    return replace(in_server, idle_slowdown=slowdown([step for step in served if step.is_after_idling], in_server))


def slowdown(served: Sequence[ServedStep], profile: Profile) -> float:
    """What these steps took together, over what the profile says of them; 1 without any."""
    expected_s = sum(profile.step_s(step.plan, step.idle_s) for step in served)
    return sum(step.seconds for step in served) / expected_s if expected_s else 1.0


def _exposed_copies(timed: Sequence[Timed], repeats: int, costs: PhysicalCosts) -> float:
    """By what share of its own time a copy makes a step longer: the median over steps; 0 without such steps."""
    whole = [(one.trial, one.seconds(repeats)) for one in timed if one.trial.is_whole]
    alone_s = {trial.work: seconds for trial, seconds in whole if not trial.blocks}
    shares = [
        (seconds - alone_s[trial.work]) / copy_seconds(costs, trial.copy, trial.blocks)
        for trial, seconds in whole
        if trial.blocks and trial.copy is not None
    ]
    return max(0.0, statistics.median(shares)) if shares else 0.0


def conditions(timed: Sequence[Timed], pace: Pace) -> Mapping[str, Any]:
    """When, with what, and how quiet it was; see `Profile.conditions`.

    `runs` are those that count, of all trials together; `foreign_cores` is how many cores other processes kept busy
    meanwhile, and runs with more than `QUIET_CORES` are `disturbed`; `spread` is how far the middle half of the runs of
    one trial reaches, relative to their median.
    """
    counted = [run for one in timed for run in one.counted(pace.repeats)]
    spreads = sorted(one.spread(pace.repeats) for one in timed)
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "software": {name: version(name) for name in _SOFTWARE} | {"python": platform.python_version()},
        "system": f"{platform.system()} {platform.machine()}",
        "trials": len(timed),
        "runs": len(counted),
        "runs_disturbed": sum(run.foreign_cores > QUIET_CORES for run in counted),
        "foreign_cores_mean": round(statistics.fmean(run.foreign_cores for run in counted), 3),
        "foreign_cores_max": round(max(run.foreign_cores for run in counted), 3),
        "spread_median": round(statistics.median(spreads), 4),
        "spread_p90": round(spreads[int(0.9 * (len(spreads) - 1))], 4),
    }
