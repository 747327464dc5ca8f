"""Processes that take the CPU for several devices."""

import os


def with_cpu_devices(count: int) -> dict[str, str]:
    """Environment of such a process, with the XLA flags of this one."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
