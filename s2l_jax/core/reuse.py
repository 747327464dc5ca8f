"""How a session gets KV that exists already: shared on the device, copied within it, or loaded from the host."""

from typing import NamedTuple

import numpy as np

from s2l_jax.core.blocks import BlockPool
from s2l_jax.core.costs import CostModel
from s2l_jax.core.host_pool import HostPool
from s2l_jax.core.keys import child_key, root_key
from s2l_jax.core.session import Session


def may_find(session: Session, pool: BlockPool, host: HostPool | None) -> bool:
    """False if neither device nor host has anything that continues what a session has: then nobody need look closer."""
    size, start = session.block_size, session.computed
    if start % size or start >= session.reach:
        return False
    index = start // size
    if pool.index.goes_on(session.key(index - 1), session.tokens.view[start : start + 1].tobytes()):
        return True
    return host is not None and start + size <= session.reach and session.key(index) in host


def claim_shared(session: Session, pool: BlockPool, host: HostPool | None) -> None:
    """Shares all blocks of the device that continue what a session has. Costs the device nothing."""
    size = session.block_size
    if session.computed % size:
        return
    reach = session.reach
    index = session.computed // size
    while (index + 1) * size <= reach:
        key = session.key(index)
        block = pool.index.find(session.key(index - 1), key, session.block_tokens(index))
        if block is None:
            return
        has_landed = session.landed == session.computed
        session.add_blocks([pool.share(block)])
        session.hold_found(size)
        if has_landed:
            session.landed = session.computed
        if host is not None:
            host.back_up(key)
        index += 1


def cached_tokens(tokens: np.ndarray, tenant: str, block_size: int, pool: BlockPool, host: HostPool | None) -> int:
    """How many leading tokens, int32 `[n]`, have their KV in full blocks of the device or the host."""
    parent, content = root_key(tenant), tokens.tobytes()
    width = block_size * tokens.itemsize
    for at in range(0, len(content) - width + 1, width):
        block = content[at : at + width]
        key = child_key(parent, block)
        if pool.index.find(parent, key, block) is None and (host is None or not host.has(key, block)):
            return at // tokens.itemsize
        parent = key
    return len(tokens) // block_size * block_size


def find_part(session: Session, pool: BlockPool) -> tuple[int, int]:
    """The block whose beginning continues what a session has, and how many tokens of it; `(-1, 0)` if there is none.

    A single token is not worth a copy, and often no more than chance, unless it is all that is missing.
    """
    start, size, reach = session.computed, session.block_size, session.reach
    if start % size or start >= reach:
        return -1, 0
    tokens = session.tokens.view[start : min(reach, start + size)]
    block, matched = pool.index.find_part(session.key(start // size - 1), tokens)
    return (block, matched) if matched > 1 or matched == len(tokens) else (-1, 0)


def on_host(session: Session, host: HostPool) -> int:
    """How many full blocks behind what a session has on the device can be loaded from the host."""
    size, reach = session.block_size, session.reach
    if session.computed % size:
        return 0
    first = index = session.computed // size
    while (index + 1) * size <= reach and host.has(session.key(index), session.block_tokens(index)):
        index += 1
    return index - first


class Restore(NamedTuple):
    """How to get back a run of blocks that the host has.

    Attributes:
      front: blocks at its beginning to compute again.
      back: blocks behind these to load meanwhile.
    """

    front: int
    back: int


def plan_restore(session: Session, blocks: int, budget: int, costs: CostModel, *, forced: bool, alone: bool) -> Restore:
    """Chooses between loading and computing again.

    Args:
      session: whose blocks they are.
      blocks: length of the run.
      budget: tokens that may run in this step.
      costs: of both.
      forced: load whatever it costs.
      alone: nobody else needs the device in this step. Then the front may be computed while the back is loaded, which
        takes as long as the slower of the two; else loading leaves the device to others and is better.
    """
    size = session.block_size
    load_s = costs.swap_in(blocks)
    if not forced and load_s >= costs.recompute(blocks * size, session.computed):
        return Restore(0, 0)
    if forced or not alone:
        return Restore(0, blocks)
    front, step = 0, 1 << max(0, blocks.bit_length() - 1)
    while step:  # the most blocks that are computed before the rest is loaded
        more = front + step
        if more < blocks and more * size <= budget:
            compute_s = costs.recompute(more * size, session.computed)
            front = more if compute_s <= costs.swap_in(blocks - more) else front
        step //= 2
    return Restore(front, blocks - front)
