"""Content keys of blocks: each names a block's tokens and, through its parent's key, everything before them.

Equal keys mean equal KV, whoever computed it. A tenant's name is the root of its keys, so tenants never share.
"""

from hashlib import blake2b
from typing import NewType

BlockKey = NewType("BlockKey", bytes)

_KEY_BYTES = 16


def root_key(tenant: str) -> BlockKey:
    """What the first block of a tenant's contexts has for a parent."""
    return BlockKey(blake2b(tenant.encode(), digest_size=_KEY_BYTES, person=b"s2l tenant").digest())


def child_key(parent: BlockKey, tokens: bytes) -> BlockKey:
    """The key of the block that holds `tokens`, int32 as bytes, behind the block of key `parent`."""
    return BlockKey(blake2b(parent + tokens, digest_size=_KEY_BYTES).digest())
