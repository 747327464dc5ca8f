"""Compiles a case for a TPU that is not there, and reads libtpu's static reports.

`environment` must be set before libtpu is loaded: it reads its flags once.
"""

import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from kernels_pallas.gate.bundles import Loop, read_loops
from kernels_pallas.gate.case import Case
from kernels_pallas.gate.hlo import error_of, temp_bytes
from kernels_pallas.gate.row import Row

TARGETS: Mapping[str, str] = {"v5e": "v5e:2x4", "v5p": "v5p:2x2x2", "v6e": "v6e:2x4", "v7x": "tpu7x:2x2x1"}
"""Topologies of eight devices; a chip of v7x is two."""

_MATRIX_UNITS: Mapping[str, int] = {"v5e": 4, "v5p": 4, "v6e": 2, "v7x": 2}
_MATMUL_CYCLES = 8  # a matrix unit takes in one row a cycle, and an instruction feeds it eight
_DECODE = re.compile(r"paged_decode_(\d+)")
_BUNDLES = re.compile(r"\d+-(?P<kernel>paged_\w+)(?:\.\d+)?-\d+-final_bundles\.txt")


def environment(dump: Path | None) -> dict[str, str]:
    """Variables of a process that compiles, with reports on each kernel in the folder `dump`."""
    flags = (
        ()
        if dump is None
        else (
            f"--xla_jf_dump_to={dump}",
            "--xla_jf_dump_llo_text=true",
            "--xla_jf_dump_llo_pass_label_regex=.*final_bundles.*",
        )
    )
    return {
        "JAX_PLATFORMS": "cpu",  # never look for a real TPU
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_LOG_DIR": "disabled",
        "LIBTPU_INIT_ARGS": " ".join(flags),
    }


def mesh_of(target: str, devices: int) -> Mesh:
    """A mesh of so many absent chips, its axis named `model`."""
    chips = topologies.get_topology_desc(TARGETS[target], "tpu").devices[:devices]
    return Mesh(np.array(chips), ("model",))


def compile_case(case: Case, target: str, dump: Path) -> list[Row]:
    """One row for each kernel in the case, or one for all of it if it is plain XLA.

    Raises:
      Exception: whatever the compiler raises.
    """
    mesh = mesh_of(target, case.devices)
    with jax.set_mesh(mesh):  # Pallas asks the mesh which TPU it compiles for
        began_s = time.perf_counter()
        compiled = jax.jit(case.function, donate_argnums=case.donated).lower(*case.placed(mesh)).compile()
        compile_s = time.perf_counter() - began_s
    error, used_bytes = error_of(case, compiled), temp_bytes(compiled)
    kernels = _kernels(dump)
    if not kernels:
        return [Row(case.name, target, error is None, compile_s, used_bytes, error=error)]
    return [_row(case, target, name, loops, dump, compile_s, used_bytes, error) for name, loops in kernels.items()]


def _row(
    case: Case,
    target: str,
    name: str,
    loops: Sequence[Loop],
    dump: Path,
    compile_s: float,
    used_bytes: int,
    error: str | None,
) -> Row:
    vmem_bytes, spill_bytes = _vmem(dump, name)
    if spill_bytes > case.may_spill_bytes:
        error = f"{spill_bytes} bytes of registers are spilled"
    return Row(
        kernel=f"{case.name}: {name}",
        target=target,
        ok=error is None,
        compile_s=compile_s,
        temp_bytes=used_bytes,
        vmem_bytes=vmem_bytes,
        spill_bytes=spill_bytes,
        bundles_per_kv_token=_bundles_per_kv_token(name, loops),
        mxu_occupancy=_occupancy(loops, target),
        error=error,
    )


def _bundles_per_kv_token(kernel: str, loops: Sequence[Loop]) -> float | None:
    """Bundles of the hot loop over the tokens of a block, which the name of a decode kernel tells."""
    match = _DECODE.match(kernel)
    return None if match is None else _hot(loops).bundles / int(match[1])


def _occupancy(loops: Sequence[Loop], target: str) -> float | None:
    """Share of the hot loop's cycles in which matrix units take in rows, over all of them; None without any product."""
    hot = _hot(loops)
    if not hot.matmuls:
        return None
    return hot.matmuls * _MATMUL_CYCLES / (hot.bundles * _MATRIX_UNITS[target])


def _hot(loops: Sequence[Loop]) -> Loop:
    """The loop that multiplies most, and the shortest of those that do: the others handle edges."""
    return max(loops, key=lambda loop: (loop.matmuls, -loop.bundles))


def _kernels(dump: Path) -> dict[str, list[Loop]]:
    """Loops of each Pallas kernel that was compiled."""
    found = {}
    for path in sorted(dump.glob("*final_bundles.txt")):
        match = _BUNDLES.fullmatch(path.name)
        if match is not None:
            found[match["kernel"]] = read_loops(path)
    return found


def _vmem(dump: Path, kernel: str) -> tuple[int, int]:
    """Bytes of VMEM that a kernel has for itself, and how many of them are spilled registers."""
    html = next(iter(dump.glob("*vmem_report.html"))).read_text(encoding="utf-8")
    modules = json.JSONDecoder().raw_decode(html.split("const DATA =")[1].lstrip())[0]["hlo_breakdowns"]
    blocks = next(value for name, value in modules.items() if name.startswith(kernel))["blocks"]
    scoped = [part for block in blocks if block["block_type"] == "SCOPED" for part in block["allocations"]]
    spilled = sum(part["size"] for part in scoped if part["tag"] == "SPILL")
    return sum(part["size"] for part in scoped), spilled
