"""Sizes of blocks for each chip and shape.

They are the largest with which the compiler keeps the loops over blocks in registers; docs/kernels.md has its figures.
"""

from dataclasses import dataclass

from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from kernels_pallas.tpu.tiles import ALIGNMENT_ROWS

_MIB = 1 << 20
PAGE_SIZE_MAX = 256  # divides all blocks
BLOCK_TOKENS = 512
_TILE_TOKENS = 128
_UNIT_ROWS = 512  # multiplied with a block at a time: enough to hide its way into the matrix unit
_UNITS_MIN = 4  # of a tile: with fewer, the three stages of `prefill` hardly overlap
_FEW_KV_HEADS = 4  # are as fast two ahead, and three ahead they spill registers on v7x
_VMEM_LIMIT_MIB = {"v5e": 96, "v6e": 96, "v5p": 48, "7x": 48}  # of 128, and of 64; XLA needs some for itself


@dataclass(frozen=True, slots=True)
class DecodeBlocks:
    """Sizes of the decode kernel.

    Attributes:
      tokens: of KV in a block, a multiple of 128 and of the page size.
      slots: blocks in VMEM; all but the one that is read are on their way.
      heads_ahead: KV heads whose scores are computed before the first one's softmax.
      vmem_limit_bytes: of the kernel.
    """

    tokens: int
    slots: int
    heads_ahead: int
    vmem_limit_bytes: int

    def __post_init__(self) -> None:
        _check("tokens", self.tokens, multiple_of=128)
        _check("slots", self.slots, multiple_of=1)


@dataclass(frozen=True, slots=True)
class PrefillBlocks:
    """Sizes of the prefill kernel.

    Attributes:
      tokens: of KV in a block, a multiple of 128 and of the page size.
      slots: as in `DecodeBlocks`.
      tile_tokens: queries that share a block of KV, a multiple of 32.
      unit_heads: query heads of one KV head that are multiplied at a time; divides their number.
      vmem_limit_bytes: of the kernel.
    """

    tokens: int
    slots: int
    tile_tokens: int
    unit_heads: int
    vmem_limit_bytes: int

    def __post_init__(self) -> None:
        _check("tokens", self.tokens, multiple_of=128)
        _check("slots", self.slots, multiple_of=1)
        _check("tile_tokens", self.tile_tokens, multiple_of=2 * ALIGNMENT_ROWS)


@dataclass(frozen=True, slots=True)
class Blocks:
    """Sizes of both kernels."""

    decode: DecodeBlocks
    prefill: PrefillBlocks


def _check(name: str, value: int, *, multiple_of: int) -> None:
    if value < 1 or value % multiple_of:
        raise ValueError(f"{name} is {value}, but must be a positive multiple of {multiple_of}")


def blocks_for(q: Array, kv_pages: Array) -> Blocks:
    """Sizes for the chip of the mesh in use, or of the default device; what fits every chip where there is no TPU.

    Args:
      q: `[tokens, q_heads, head_dim]`.
      kv_pages: `[pages, kv_heads, page_size, kv_dim]`.
    """
    chip = str(pltpu.get_tpu_info().chip_version) if pltpu.is_tpu_device() else ""
    vmem_limit_bytes = _VMEM_LIMIT_MIB.get(chip, min(_VMEM_LIMIT_MIB.values())) * _MIB
    q_heads, kv_heads = q.shape[1], kv_pages.shape[1]
    group = q_heads // kv_heads
    # These take more registers, and with larger blocks more than there are.
    is_wide = q.shape[2] == 256 or q.dtype.itemsize == 4
    tokens = BLOCK_TOKENS // 2 if is_wide else BLOCK_TOKENS
    heads_ahead = 2 if is_wide or kv_heads <= _FEW_KV_HEADS else 3
    has_few_rows = min(group, q_heads // _UNITS_MIN) * _TILE_TOKENS < _UNIT_ROWS
    tile_tokens = 2 * _TILE_TOKENS if has_few_rows else _TILE_TOKENS
    return Blocks(
        DecodeBlocks(tokens, 3, heads_ahead, vmem_limit_bytes),
        PrefillBlocks(BLOCK_TOKENS, 3, tile_tokens, _unit_heads(group, tile_tokens), vmem_limit_bytes),
    )


def _unit_heads(group: int, tile_tokens: int) -> int:
    """As many of a KV head's query heads as come closest to `_UNIT_ROWS`."""
    divisors = [heads for heads in range(1, group + 1) if group % heads == 0]
    return min(divisors, key=lambda heads: (abs(heads * tile_tokens - _UNIT_ROWS), -heads))
