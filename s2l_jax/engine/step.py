"""A step between its start on the device and its result."""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array

from s2l_jax.core.plan import Sample, SampledToken, StepPlan, StepResult, StepTiming
from s2l_jax.engine.host_pool import CopyTimes
from s2l_jax.engine.sample_packing import SampleGroup, unpack_sampled

_NO_TOKEN = SampledToken(-1)


@dataclass(slots=True)
class Step:
    """An outstanding step.

    How it is timed. The device runs steps one after the other, and within each first the copies between device and
    host, then the rest. A part's time runs from when the device was through with what came before, or from when the
    part was handed to it if that was later, until the part is ready; landing saves and staging loads on the host is
    added to those. Copies are timed where they are waited for, on the copier. That the rest is ready is noticed by
    `is_ready` or `collect`: who looks late measures too much.

    Attributes:
      plan: what it does.
      groups: its samples as they run together.
      sampled: what each group gives.
      markers: other arrays that are ready when the step has run.
      copies: when its copies between device and host are done, and what they took; None if it has none.
      staging_s: what the host spent on handing loads to the device.
      rest_start_s: when what is not such a copy was handed to the device, by `time.perf_counter`.
      ready_s: when it was found to be ready; 0 before that.
    """

    plan: StepPlan
    groups: Sequence[SampleGroup]
    sampled: Sequence[Array]
    markers: Sequence[Array]
    copies: Future[CopyTimes] | None
    staging_s: float
    rest_start_s: float
    ready_s: float = 0.0

    @property
    def outputs(self) -> list[Array]:
        """All that is ready when the device has run the step."""
        return [*self.sampled, *self.markers]

    def is_ready(self) -> bool:
        """Whether `result` would not wait."""
        if not are_ready(self.outputs):
            return False
        self._note_ready()
        return self.copies is None or self.copies.done()

    def result(self, previous_ready_s: float) -> StepResult:
        """Waits for the step.

        Args:
          previous_ready_s: when the step before it was found to be ready.
        """
        jax.block_until_ready(self.outputs)
        self._note_ready()
        copies = CopyTimes(0.0, 0.0, 0.0) if self.copies is None else self.copies.result()
        has_rest = self.plan.chunks or self.plan.samples or self.plan.copies
        self.ready_s = max(self.ready_s, copies.end_s)
        rest_from_s = max(self.rest_start_s, previous_ready_s, copies.end_s)
        timing = StepTiming(
            compute_s=max(0.0, self.ready_s - rest_from_s) if has_rest else 0.0,
            save_s=copies.save_s,
            load_s=copies.load_s + self.staging_s,
        )
        return StepResult(self.plan, self._tokens(), timing)

    def _note_ready(self) -> None:
        self.ready_s = self.ready_s or time.perf_counter()

    def _tokens(self) -> tuple[SampledToken, ...]:
        tokens = [_NO_TOKEN] * len(self.plan.samples)
        for group, packed in zip(self.groups, jax.device_get(self.sampled), strict=True):
            for index, token in zip(group.indices, unpack_sampled(packed, members(self.plan, group)), strict=True):
                tokens[index] = token
        return tuple(tokens)


def are_ready(arrays: Sequence[Any]) -> bool:
    """Whether the device is through with arrays. Not typed, since `jax.Array` does not mention the method."""
    return all(array.is_ready() for array in arrays)


def members(plan: StepPlan, group: SampleGroup) -> list[Sample]:
    """The samples of a group."""
    return [plan.samples[index] for index in group.indices]
