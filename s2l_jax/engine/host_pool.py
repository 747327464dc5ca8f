"""The host pool: pages that left the device, by slot.

Ownership. The engine's owner thread calls every method of `HostPool`. Memory of slots is written by one other thread,
the copier, and read by the owner:

- `save` takes pages that the device has been told to gather, and returns at once. The copier waits for the device and
  writes the slots ("lands" the save), one save after the other, so the last of two saves to a slot is what stays there.
- `load` waits until the slot's last save has landed, and only then reads. What it hands to the device is its own: a
  later save to the slot does not change it.
- Each slot has the epoch of its content, kept by the owner from the moment a save is begun. Steps run in the order of
  planning, so a load must find the epoch that its plan names; if it does not, `check` refuses the plan.

The copier works for one step at a time, and at most two steps are outstanding, which bounds what waits for it.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple, Protocol

import jax
from jaxtyping import Array

from s2l_jax.core.errors import InternalError
from s2l_jax.core.plan import HostCopy
from s2l_jax.engine.device_code import Contents


class HostMemory(Protocol):
    """Memory for a fixed number of pages.

    Attributes:
      split_contents: contents come as one piece for each page, else all in one.
    """

    split_contents: bool

    def write(self, slots: Sequence[int], contents: Contents) -> None:
        """Puts pages, which are ready on the device, into slots; returns when they are there."""

    def read(self, slots: Sequence[int]) -> Contents:
        """Pages on the device. May return before they are there, but later writes do not change them."""


class Saved(NamedTuple):
    """Pages on their way into slots."""

    slots: list[int]
    contents: Contents


class DeviceCopies(NamedTuple):
    """A step's copies between device and host, as they were handed to the device. Times are `time.perf_counter`'s.

    Attributes:
      saved: pages to land.
      loaded: ready when the loads are done; None if there are none.
      start_s: when the first copy was handed to the device.
      loaded_s: when the last load was.
      predecessors: what was not ready at `start_s`, and is when the device begins with these copies.
    """

    saved: Sequence[Saved]
    loaded: Array | None
    start_s: float
    loaded_s: float
    predecessors: Sequence[Array]


class CopyTimes(NamedTuple):
    """What a step's copies between device and host took.

    Attributes:
      save_s: gathering pages on the device, and writing them to the host.
      load_s: scattering pages on the device, from when the last of them was handed to it.
      end_s: when the device was through with both, by `time.perf_counter`.
    """

    save_s: float
    load_s: float
    end_s: float


class HostPool:
    """Slots for pages, with their epochs.

    Args:
      memory: where pages are kept.
      slots: how many.
    """

    def __init__(self, memory: HostMemory, slots: int) -> None:
        self._memory = memory
        self._epochs: list[int | None] = [None] * slots
        self._landing: dict[int, Future[CopyTimes]] = {}
        self._copier = ThreadPoolExecutor(1, thread_name_prefix="s2l-copier")

    def check(self, saves: Sequence[HostCopy], loads: Sequence[HostCopy]) -> None:
        """Refuses copies of slots that do not exist, and loads of what is not there.

        Raises:
          InternalError: see above; nothing has been changed.
        """
        saved = {copy.slot for copy in saves}
        if len(saved) != len(saves):
            raise InternalError("a step saves twice to one host slot")
        for copy in (*saves, *loads):
            if not 0 <= copy.slot < len(self._epochs):
                raise InternalError(f"host slot {copy.slot} is outside 0..{len(self._epochs)}")
        for copy in loads:
            if copy.slot in saved:
                raise InternalError(f"a step saves to host slot {copy.slot} and loads from it")
            if self._epochs[copy.slot] != copy.epoch:
                raise InternalError(
                    f"host slot {copy.slot} holds epoch {self._epochs[copy.slot]}, but block {copy.block} wants epoch "
                    f"{copy.epoch}: its content is gone"
                )

    def load(self, slots: Sequence[int]) -> Contents:
        """Pages of slots, on their way to the device; waits for saves to land.

        Raises:
          Exception: what kept a save from landing.
        """
        for slot in slots:
            if slot in self._landing:
                self._landing[slot].result()
        return self._memory.read(slots)

    def save(self, saves: Sequence[HostCopy], copies: DeviceCopies) -> Future[CopyTimes]:
        """Begins to land a plan's saves, of which there may be none, and times all copies of its step."""
        landing = self._copier.submit(self._land, copies)
        for copy in saves:
            self._epochs[copy.slot] = copy.epoch
            self._landing[copy.slot] = landing
        return landing

    def landed(self, saves: Sequence[HostCopy], landing: Future[CopyTimes]) -> None:
        """Notes that a save has landed: its slots need not be waited for."""
        for copy in saves:
            if self._landing.get(copy.slot) is landing:
                del self._landing[copy.slot]

    def forget(self, saves: Sequence[HostCopy]) -> None:
        """Forgets the slots of a failed step, once nothing writes them any more."""
        landings = [self._landing.pop(copy.slot) for copy in saves if copy.slot in self._landing]
        wait(landings)
        for copy in saves:
            if 0 <= copy.slot < len(self._epochs):
                self._epochs[copy.slot] = None

    def close(self) -> None:
        """Ends the copier."""
        self._copier.shutdown()

    def _land(self, copies: DeviceCopies) -> CopyTimes:
        """Runs on the copier."""
        start_s = copies.start_s
        if copies.predecessors:
            jax.block_until_ready(copies.predecessors)
            start_s = time.perf_counter()
        save_s = load_s = 0.0
        end_s = start_s
        if copies.saved:
            jax.block_until_ready([saved.contents for saved in copies.saved])
            end_s = time.perf_counter()
            save_s = end_s - start_s
        if copies.loaded is not None:
            from_s = max(end_s, copies.loaded_s)
            copies.loaded.block_until_ready()
            end_s = time.perf_counter()
            load_s = end_s - from_s
        for slots, contents in copies.saved:
            from_s = time.perf_counter()
            self._memory.write(slots, contents)
            save_s += time.perf_counter() - from_s
        return CopyTimes(save_s, load_s, end_s)
