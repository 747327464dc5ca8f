"""Identifiers. Distinct types, so that a checker catches a block id used as a slot."""

from typing import NewType

SessionId = NewType("SessionId", str)
SlotId = NewType("SlotId", int)
BlockId = NewType("BlockId", int)
HostSlot = NewType("HostSlot", int)
