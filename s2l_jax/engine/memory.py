"""How many KV blocks fit into memory."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models.config import ModelConfig

_CPU_MEMORY_SHARE = 0.25
_ACCELERATOR_MEMORY_SHARE = 0.85


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
    device: jax.Device,
    memory_share: float | None = None,
) -> int:
    """Chooses a number of KV blocks for `device`, to be called after the weights are on it.

    A share of the memory that is free now, but never more than all sessions at full length can use. On a CPU the
    share is small by default, since the machine has other work; on an accelerator it is most of what is left.

    Raises:
      InvalidArgument: not even one sequence of `max_model_len` fits, or the device does not tell its memory.
    """
    on_cpu = device.platform == "cpu"
    share = memory_share or (_CPU_MEMORY_SHARE if on_cpu else _ACCELERATOR_MEMORY_SHARE)
    free_bytes = free_host_bytes() if on_cpu else _free_device_bytes(device)
    one_block_bytes = block_bytes(model, block_size, dtype)
    fit = int(free_bytes * share) // one_block_bytes
    per_sequence = -(-max_model_len // block_size)
    if fit < per_sequence:
        raise InvalidArgument(
            f"max_model_len is {max_model_len}, whose KV takes {per_sequence * one_block_bytes / 2**30:.2f} GiB, but "
            f"only {share:.0%} of the {free_bytes / 2**30:.2f} GiB free on {device} may be used: "
            "lower max_model_len, or free some memory, or set the number of blocks yourself"
        )
    return min(fit, max_sessions * per_sequence)


def free_host_bytes(root: Path = Path("/")) -> int:
    """Memory that this process may still take: what the machine has left, or less if its container says so.

    Args:
      root: where `proc` and `sys` are mounted.
    """
    free_bytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = root / "proc/meminfo"
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free_bytes = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = root / "sys/fs/cgroup/memory.max", root / "sys/fs/cgroup/memory.current"
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        free_bytes = min(free_bytes, int(limit.read_text()) - int(used.read_text()))
    return max(free_bytes, 0)


def _free_device_bytes(device: jax.Device) -> int:
    stats = device.memory_stats()
    if not stats:
        raise InvalidArgument(f"num_blocks is not set, and {device} does not tell how much memory it has: set it")
    return stats["bytes_limit"] - stats["bytes_in_use"]
