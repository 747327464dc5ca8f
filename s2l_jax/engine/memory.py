"""How many KV blocks fit into memory."""

import os
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models.config import ModelConfig

_CPU_MEMORY_SHARE = 0.1
_ACCELERATOR_MEMORY_SHARE = 0.85
_SIGNIFICANT_BITS = 4


def block_bytes(model: ModelConfig, block_size: int, dtype: str) -> int:
    """Bytes of KV that one block takes over all layers."""
    per_token = 2 * model.num_layers * model.num_kv_heads * model.head_dim
    return per_token * block_size * jnp.dtype(dtype).itemsize


def blocks_that_fit(
    model: ModelConfig,
    *,
    block_size: int,
    dtype: str,
    max_sessions: int,
    max_model_len: int,
    devices: Sequence[jax.Device],
    memory_share: float | None = None,
    engines: int = 1,
) -> int:
    """Chooses a number of KV blocks for devices that share them, to be called after the weights are there.

    A share of the memory, but never more than all sessions at full length can use. On a CPU it is a small share of the
    whole, since the machine has other work; on an accelerator it is most of what is free.

    With several engines, each has its part of what one would have on a CPU; elsewhere each has devices of its own.

    The number is cut to a few significant bits, so that it is the same at the next start although a few megabytes more
    or less are free then: executables are compiled for it.

    Raises:
      InvalidArgument: not even one sequence of `max_model_len` fits, or a device does not tell its memory.
    """
    on_cpu = devices[0].platform == "cpu"
    share = memory_share or (_CPU_MEMORY_SHARE if on_cpu else _ACCELERATOR_MEMORY_SHARE)
    here = [device for device in devices if device.process_index == jax.process_index()]
    memory_bytes = host_bytes() // engines if on_cpu else len(devices) * min(map(_free_device_bytes, here))
    one_block_bytes = block_bytes(model, block_size, dtype)
    fit = _cut(int(memory_bytes * share) // one_block_bytes)
    per_sequence = -(-max_model_len // block_size)
    if fit < per_sequence:
        raise InvalidArgument(
            f"max_model_len is {max_model_len}, whose KV takes {per_sequence * one_block_bytes / 2**30:.2f} GiB, but "
            f"only {share:.0%} of {memory_bytes / 2**30:.2f} GiB on {', '.join(map(str, devices))} may be used: "
            "lower max_model_len, or free some memory, or set the number of blocks yourself"
        )
    return min(fit, max_sessions * per_sequence)


def host_bytes(root: Path = Path("/")) -> int:
    """Memory of this machine, or of the container if it has less.

    Args:
      root: where `sys` is mounted.
    """
    total_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = root / "sys/fs/cgroup/memory.max"
    if limit.exists() and limit.read_text().strip() != "max":
        total_bytes = min(total_bytes, int(limit.read_text()))
    return total_bytes


def _cut(count: int) -> int:
    """The largest number of few significant bits that is not above `count`."""
    shift = max(0, count.bit_length() - _SIGNIFICANT_BITS)
    return count >> shift << shift


def _free_device_bytes(device: jax.Device) -> int:
    stats = device.memory_stats()
    if not stats:
        raise InvalidArgument(f"num_blocks is not set, and {device} does not tell how much memory it has: set it")
    return stats["bytes_limit"] - stats["bytes_in_use"]
