"""What a machine is called in profiles."""

import os
import platform
from pathlib import Path


def device_name(platform_name: str, kind: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """A name that differs between machines of different speed.

    Args:
      platform_name: `cpu`, `gpu` or `tpu`.
      kind: what the device calls itself; CPUs all say the same, so their model and the cores we may use are added.
      cpuinfo: where Linux describes the processor.
    """
    if platform_name != "cpu":
        return f"{platform_name} {kind}"
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    model = next(named, platform.processor() or platform.machine())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"cpu {model}, {cores} cores"
