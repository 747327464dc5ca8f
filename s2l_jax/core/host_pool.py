"""The host pool: which slot of host memory holds a copy of which block content.

A copy is either the last one of something that a session still needs (`swapped`: it was evicted from the device), or a
backup of what is on the device as well, or of what nobody needs now. Backups give way to new copies, the oldest first;
swapped copies stay until their session has them back, changes its context, or ends. If there is no room, there is no
copy, and what is lost is computed again: that costs time, never correctness.

Copies are named by content, as device blocks are, so an update that changes a context can never meet a copy of the old
one: it just stops asking for it (`demote`).
"""

from collections import OrderedDict, deque
from collections.abc import Sequence

from s2l_jax.core.ids import HostSlot
from s2l_jax.core.keys import BlockKey
from s2l_jax.core.outcome import HostStats


class HostPool:
    """A fixed number of slots. Every operation is O(1).

    Within one planning pass a slot is either read or written: slots that `take` returned, and slots that were
    `reserve`d, are left alone until `settle`.
    """

    def __init__(self, num_slots: int) -> None:
        self.total = num_slots
        self._free: deque[int] = deque(range(num_slots))
        self._slots: dict[BlockKey, int] = {}
        self._contents: dict[int, tuple[BlockKey, bytes]] = {}
        self._epochs = [0] * num_slots
        self._backups: OrderedDict[int, None] = OrderedDict()
        self._swapped: OrderedDict[int, None] = OrderedDict()
        self._busy: dict[int, OrderedDict[int, None]] = {}
        self._written: set[int] = set()

    def __contains__(self, key: BlockKey) -> bool:
        return key in self._slots

    @property
    def room(self) -> int:
        """Slots that hold nothing, or only a backup."""
        return len(self._free) + len(self._backups)

    def count_missing(self, keys: Sequence[BlockKey]) -> int:
        """How many of these contents have no copy."""
        return len(keys) - sum(map(self._slots.__contains__, keys))

    def reserve(self, key: BlockKey, tokens: bytes, *, swapped: bool) -> tuple[HostSlot, int] | None:
        """Finds a slot for a copy that is not here yet; the slot and its new epoch, or None if none can be had.

        Args:
          key: of the content.
          tokens: of the block, int32 as bytes, to compare hits with.
          swapped: it will be the last copy.
        """
        if self._free:
            slot = self._free.popleft()
        elif self._backups:
            slot = self._backups.popitem(last=False)[0]
            self._forget(slot)
        else:
            return None
        self._slots[key] = slot
        self._contents[slot] = key, tokens
        self._epochs[slot] += 1
        self._busy[slot] = self._swapped if swapped else self._backups
        self._written.add(slot)
        return HostSlot(slot), self._epochs[slot]

    def has(self, key: BlockKey, tokens: bytes) -> bool:
        """True if a copy of this content can be loaded."""
        slot = self._slots.get(key)
        return slot is not None and slot not in self._written and self._contents[slot][1] == tokens

    def take(self, key: BlockKey) -> tuple[HostSlot, int]:
        """The slot and epoch of a copy to load. It stays as a backup, since the device has the content again."""
        slot = self._slots[key]
        self._move(slot, self._backups)
        return HostSlot(slot), self._epochs[slot]

    def promote(self, key: BlockKey) -> None:
        """The device's block of this content is given up: the copy, if there is one, is the last."""
        slot = self._slots.get(key)
        if slot is not None:
            self._move(slot, self._swapped)

    def back_up(self, key: BlockKey) -> None:
        """The device has this content again: the copy, if there is one, is not the last any more."""
        slot = self._slots.get(key)
        if slot is not None and slot in self._swapped:
            del self._swapped[slot]
            self._backups[slot] = None

    def demote(self, key: BlockKey) -> None:
        """No session needs this content any more: the copy, if there is one, is the first to give way."""
        slot = self._slots.get(key)
        if slot is not None and slot not in self._busy:
            self._swapped.pop(slot, None)
            self._backups[slot] = None
            self._backups.move_to_end(slot, last=False)

    def discard(self, slot: HostSlot, epoch: int) -> None:
        """The copy that was being made is not to be trusted. Nothing happens if the slot holds a later one."""
        if self._epochs[slot] == epoch and slot in self._contents:
            self._backups.pop(slot, None)
            self._swapped.pop(slot, None)
            self._forget(slot)
            self._free.append(slot)

    def settle(self) -> None:
        """Ends a planning pass."""
        for slot, queue in self._busy.items():
            queue[slot] = None
        self._busy.clear()
        self._written.clear()

    def stats(self) -> HostStats:
        """Slots by what they hold."""
        return HostStats(self.total, len(self._free), len(self._backups), len(self._swapped))

    def check_integrity(self) -> None:
        """Raises RuntimeError unless every slot is in exactly one place, between planning passes."""
        places = sorted([*self._free, *self._backups, *self._swapped])
        if places != list(range(self.total)) or self._busy or self._written:
            raise RuntimeError(f"host pool of {self.total} does not add up: {self.stats()}, {len(self._busy)} busy")
        if {slot: key for key, slot in self._slots.items()} != {s: c[0] for s, c in self._contents.items()}:
            raise RuntimeError("host pool: keys and slots do not fit each other")
        if set(self._contents) & set(self._free):
            raise RuntimeError("host pool: a free slot has content")

    def _move(self, slot: int, queue: OrderedDict[int, None]) -> None:
        self._backups.pop(slot, None)
        self._swapped.pop(slot, None)
        self._busy[slot] = queue

    def _forget(self, slot: int) -> None:
        key, _ = self._contents.pop(slot)
        del self._slots[key]
