"""Sizes of blocks for each chip and shape."""

from dataclasses import dataclass

from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from kernels_pallas.tpu.tiles import ALIGNMENT_ROWS

_MIB = 1 << 20
_UNIT_ROWS = 512  # of a matrix that is multiplied with one block: enough to hide loading the block into the matrix unit
_SMALL_VMEM_CHIPS = ("v5p", "7x")  # 64 MiB; v5e and v6e have 128


@dataclass(frozen=True, slots=True)
class DecodeBlocks:
    """Sizes of the decode kernel.

    Attributes:
      tokens: of KV in a block, a multiple of 128 and of the page size.
      slots: blocks in VMEM; all but the one that is read are on their way.
      vmem_limit_bytes: of the kernel.
    """

    tokens: int
    slots: int
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


BLOCK_TOKENS = 512


def blocks_for(q: Array, kv_pages: Array) -> Blocks:
    """Sizes for the chip of the mesh in use, or of the default device; for others than TPUs some that fit.

    Args:
      q: `[tokens, q_heads, head_dim]`.
      kv_pages: `[pages, kv_heads, page_size, kv_dim]`.
    """
    small = str(pltpu.get_tpu_info().chip_version) in _SMALL_VMEM_CHIPS if pltpu.is_tpu_device() else True
    limit = (48 if small else 96) * _MIB
    group = q.shape[1] // kv_pages.shape[1]
    tile_tokens = 128
    unit_heads = max(
        n for n in range(1, group + 1) if group % n == 0 and n * tile_tokens <= max(_UNIT_ROWS, tile_tokens)
    )
    return Blocks(DecodeBlocks(BLOCK_TOKENS, 3, limit), PrefillBlocks(BLOCK_TOKENS, 2, tile_tokens, unit_heads, limit))
