"""Compiles a case for a GPU that is not there, and reads what ptxas says of it.

`environment` must be set before a compiler is first used.
"""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import jax
import jax.experimental.mosaic.gpu.utils as mosaic_utils
from jax.experimental import topologies
from jax.sharding import Mesh, use_abstract_mesh

from kernels_pallas.gate.case import Case
from kernels_pallas.gate.hlo import error_of, temp_bytes
from kernels_pallas.gate.row import Row

_PTXAS_LOG = re.compile(
    r"entry function '(?P<kernel>\w+)'.*?(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
    r".*?Used (?P<registers>\d+) registers(?:[^\n]*?(?P<smem>\d+) bytes smem)?",
    re.DOTALL,
)
_ENTRY = re.compile(r"\.entry (?P<kernel>\w+)\(.*?\.(?:maxntid|reqntid) (?P<threads>\d+)", re.DOTALL)
_PTX_TARGET = re.compile(r"\.target (\w+)")
_OWN = "paged_"  # how names of our kernels begin; the others are XLA's
_WARP, _WARPS, _BLOCKS, _REGISTERS = 32, 64, 32, 65536  # threads of a warp; what a multiprocessor has room for
_REGISTER_UNIT = 256  # they are given to warps in such pieces
_RESERVED_BYTES = 1024  # of shared memory, by the system, for each block
_SCRATCH = re.compile(r"smem_scratch_bytes=(\d+)")


@dataclass(frozen=True, slots=True)
class Gpu:
    """What the compiler wants to know of a GPU: data sheets, and what `cudaGetDeviceProperties` says of one."""

    title: str
    capability: tuple[int, int]
    cores: int
    fpus_per_core: int
    shared_bytes_per_core: int
    shared_bytes_per_block: int
    l2_bytes: int
    clock_ghz: float
    memory_bytes: int
    memory_bytes_s: int

    def description(self) -> str:
        """As XLA reads it."""
        major, minor = self.capability
        features = "ACCELERATED_FEATURES" if major >= 9 else "NONE"
        return f"""gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 core_count: {self.cores}
  shared_memory_per_block: 49152 shared_memory_per_core: {self.shared_bytes_per_core}
  shared_memory_per_block_optin: {self.shared_bytes_per_block} fpus_per_core: {self.fpus_per_core}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: {self.memory_bytes_s} l2_cache_size: {self.l2_bytes} clock_rate_ghz: {self.clock_ghz}
  device_memory_size: {self.memory_bytes}
  cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {features} }}
  runtime_version: "13.0.0" driver_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
}}
platform_name: "CUDA" device_description_str: "{self.title}"
"""


class Kernel(NamedTuple):
    """What ptxas says of a kernel; `spill_bytes` counts stores and loads, `threads` are those of a block."""

    name: str
    registers: int
    spill_bytes: int
    smem_bytes: int | None
    threads: int | None

    def occupancy(self, gpu: Gpu) -> float | None:
        """Threads that a multiprocessor holds at a time, over the most that it can (CUDA C++ programming guide)."""
        if self.threads is None:
            return None
        warps = -(-self.threads // _WARP)
        warp_registers = -(-self.registers * _WARP // _REGISTER_UNIT) * _REGISTER_UNIT
        block_bytes = (self.smem_bytes or 0) + _RESERVED_BYTES
        blocks = min(_BLOCKS, _REGISTERS // (warp_registers * warps), gpu.shared_bytes_per_core // block_bytes)
        return min(blocks * warps, _WARPS) / _WARPS


TARGETS: Mapping[str, Gpu] = {
    "sm_80": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 167936, 166912, 41943040, 1.41, 85899345920, 2039 * 10**9),
    "sm_90": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 233472, 232448, 52428800, 1.98, 84942979072, 3352320000000),
    "sm_100": Gpu("NVIDIA B200", (10, 0), 148, 128, 233472, 232448, 132644864, 1.965, 191 * 10**9, 7672 * 10**9),
}


def environment(dump: Path) -> dict[str, str]:
    """Variables of a process that compiles, with reports in the folder `dump`."""
    return {
        "JAX_PLATFORMS": "cpu",
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "MOSAIC_GPU_DUMP_TO": str(dump),
        "MOSAIC_GPU_DUMP_PTX": "1",
        "MOSAIC_GPU_DUMP_PTXAS": "1",
        "XLA_FLAGS": f"--xla_dump_to={dump} --xla_dump_emitter_re=ptx",
    }


def mesh_of(target: str, devices: int) -> Mesh:
    """A mesh of so many absent GPUs, its axis named `model`."""
    # Mosaic takes any absent device for an H100 otherwise (jax issue 38886).
    mosaic_utils._infer_arch = lambda: TARGETS[target].capability
    topology = topologies.get_topology_desc(
        platform="cuda", target_config=TARGETS[target].description(), topology=f"1x1x{devices}"
    )
    return topologies.make_mesh(topology, (devices,), ("model",))


def compile_case(case: Case, target: str, dump: Path) -> list[Row]:
    """One row for each of our kernels in the case, and one for all that XLA made.

    Raises:
      Exception: whatever the compiler raises.
    """
    mesh = mesh_of(target, case.devices)
    began_s = time.perf_counter()
    with use_abstract_mesh(mesh.abstract_mesh):
        compiled = jax.jit(case.function, donate_argnums=case.donated).lower(*case.placed(mesh)).compile()
    compile_s = time.perf_counter() - began_s
    error, used_bytes = error_of(case, compiled), temp_bytes(compiled)
    kernels = list(_kernels(dump))
    own = [kernel for kernel in kernels if _OWN in kernel.name]
    others = [kernel for kernel in kernels if _OWN not in kernel.name]
    rows = [
        replace(
            _row(f"{case.name}: {kernel.name}", target, [kernel], compile_s, used_bytes, error),
            occupancy=kernel.occupancy(TARGETS[target]),
        )
        for kernel in own
    ]
    if others:
        rows.append(_row(case.name, target, others, compile_s, used_bytes, error))
    return rows


def _row(
    name: str, target: str, kernels: Sequence[Kernel], compile_s: float, used_bytes: int, error: str | None
) -> Row:
    """One row for several kernels: the most registers and shared memory, and all that is spilled."""
    spill_bytes = sum(kernel.spill_bytes for kernel in kernels)
    error = f"{spill_bytes} bytes of registers are spilled" if spill_bytes else error
    return Row(
        kernel=name,
        target=target,
        ok=error is None,
        compile_s=compile_s,
        temp_bytes=used_bytes,
        smem_bytes=max((kernel.smem_bytes for kernel in kernels if kernel.smem_bytes is not None), default=None),
        spill_bytes=spill_bytes,
        registers=max(kernel.registers for kernel in kernels),
        error=error,
    )


def _kernels(dump: Path) -> Iterator[Kernel]:
    """All kernels that were compiled."""
    logs = [path.read_text(encoding="utf-8") for path in sorted(dump.glob("*.ptxas"))]
    ptx = sorted(dump.glob("*.ptx"))
    threads = {
        match["kernel"]: int(match["threads"])
        for path in ptx
        for match in _ENTRY.finditer(path.read_text(encoding="utf-8"))
    }
    logs.extend(_assemble(path) for path in ptx if not path.with_suffix(".ptxas").exists())
    for log in logs:
        for match in _PTXAS_LOG.finditer(log):
            kernel = match["kernel"]
            spill_bytes = int(match["stores"]) + int(match["loads"])
            smem_bytes = _shared_bytes(dump, kernel, match["smem"])
            yield Kernel(kernel, int(match["registers"]), spill_bytes, smem_bytes, threads.get(kernel))


def _assemble(path: Path) -> str:
    """What ptxas says of a file of PTX."""
    target = _PTX_TARGET.search(path.read_text(encoding="utf-8"))
    if target is None:
        return ""
    command = [_ptxas(), "-v", f"-arch={target[1]}", str(path), "-o", "/dev/null"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def _ptxas() -> str:
    """The assembler of the package `nvidia-cuda-nvcc`, or the one on PATH.

    Raises:
      FileNotFoundError: there is none.
    """
    spec = find_spec("nvidia")
    for folder in spec.submodule_search_locations if spec is not None and spec.submodule_search_locations else ():
        for found in Path(folder).glob("*/bin/ptxas"):
            return str(found)
    found_on_path = shutil.which("ptxas")
    if found_on_path is None:
        raise FileNotFoundError("ptxas is missing: install the extra `aot` (tools/setup.sh kernels)")
    return found_on_path


def _shared_bytes(dump: Path, kernel: str, static: str | None) -> int | None:
    """Dynamic shared memory where Mosaic notes it, else what ptxas says."""
    for path in dump.glob("*.resources.txt"):
        if f"{path.stem.rsplit('_', 1)[0]}_mosaic_gpu_kernel" == kernel:
            scratch = _SCRATCH.search(path.read_text(encoding="utf-8"))
            if scratch is not None:
                return int(scratch[1])
    return int(static) if static is not None else None
