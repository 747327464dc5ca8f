"""`python -m kernels_pallas.gate.compile MODULE TARGET NAME`: compiles one case of a module, prints its rows as JSON.

A process of its own, since a kernel for the wrong architecture can abort it and a wrong barrier can hang it.
"""

import importlib
import json
import os
import sys
from pathlib import Path

from kernels_pallas.gate.row import Row

DUMP_VARIABLE = "S2L_KERNEL_DUMP"


def main(module: str, target: str, name: str) -> None:
    """Compiles and prints."""
    from kernels_pallas.gate import gpu, tpu

    case = importlib.import_module(module).cases_of(target)[name]()
    compiler = tpu if target in tpu.TARGETS else gpu
    try:
        rows = compiler.compile_case(case, target, Path(os.environ[DUMP_VARIABLE]))
    except Exception as error:  # noqa: BLE001  whatever a compiler raises is the result
        rows = [Row(case.name, target, ok=False, error=f"{type(error).__name__}: {error}"[:2000])]
    print(json.dumps([row.to_json() for row in rows]))


if __name__ == "__main__":
    main(*sys.argv[1:])
