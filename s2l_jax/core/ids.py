"""Names for the integers and strings that identify things."""

from typing import NewType

SessionId = NewType("SessionId", str)
BlockId = NewType("BlockId", int)
SlotId = NewType("SlotId", int)
