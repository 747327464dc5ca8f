"""Which implementation of paged attention runs: by name, or the best one for the device.

Each is a module with `paged_attention`, and with `unsupported`, which says why it cannot do something or None. They are
imported when they are first wanted.
"""

import functools
import importlib
import logging
from collections.abc import Callable

import jax
from jaxtyping import Array

MODULES = {
    "xla": "kernels_pallas.reference",
    "mosaic_tpu": "kernels_pallas.tpu.attention",
    "mosaic_gpu": "kernels_pallas.gpu.attention",
}
_MOSAIC_GPUS = ("H100", "H200", "H20", "B200", "B300")  # Hopper and Blackwell, by what they call themselves

_log = logging.getLogger(__name__)


def choose(
    name: str | None,
    q: Array,
    kv_pages: Array,
    block_tables: Array,
    *,
    sliding_window: int | None,
    soft_cap: float | None,
) -> Callable[..., Array]:
    """The function that computes attention.

    Args:
      name: of the implementation; None takes the best one for the device, or "xla" where that one cannot do it.
      q: queries, as in `paged_attention`.
      kv_pages: pages, likewise.
      block_tables: likewise.
      sliding_window: likewise.
      soft_cap: likewise.

    Raises:
      ValueError: there is no such implementation, or it cannot do this.
    """
    wanted = best() if name is None else name
    if wanted not in MODULES:
        raise ValueError(f"no attention implementation {wanted!r}; there are {', '.join(sorted(MODULES))}")
    module = importlib.import_module(MODULES[wanted])
    reason = module.unsupported(q, kv_pages, block_tables, sliding_window=sliding_window, soft_cap=soft_cap)
    if reason is None:
        return module.paged_attention
    if name is not None:
        raise ValueError(f"attention implementation {name!r} cannot do this: {reason}")
    _say_once(wanted, reason)
    return importlib.import_module(MODULES["xla"]).paged_attention


def best() -> str:
    """The name of the fastest implementation for the mesh in use, or for the default device without one."""
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
    if device.platform == "tpu":
        return "mosaic_tpu"
    if device.platform == "gpu" and any(name in device.device_kind for name in _MOSAIC_GPUS):
        return "mosaic_gpu"
    return "xla"


@functools.cache
def _say_once(name: str, reason: str) -> None:
    """A line of the log for each reason; engines trace the same call many times."""
    _log.warning("attention runs as plain XLA instead of %s: %s", name, reason)
