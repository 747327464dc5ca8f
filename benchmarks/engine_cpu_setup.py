"""What engine_cpu.py needs before it can measure: environments of peers, and the weights in their formats."""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gguf

ERROR_LINES = 8


@dataclass(frozen=True)
class Environment:
    """A virtual environment of a peer: its name, what goes in, and what has to go out again."""

    name: str
    packages: tuple[str, ...]
    unwanted: tuple[str, ...] = ()

    def python(self, cache_dir: Path, report: Callable[[str], None]) -> Path:
        """Its interpreter; makes the environment if it is not there, complete and of these packages.

        Raises:
          OSError, subprocess.SubprocessError: it cannot be made; the message says why.
        """
        home = cache_dir / self.name
        python, complete = home / "bin" / "python", home / "packages.json"
        if complete.is_file() and json.loads(complete.read_text()) == list(self.packages):
            return python
        interpreter = shutil.which("python3.11") or shutil.which("python3")
        if interpreter is None:
            raise FileNotFoundError("there is no python3 on PATH to make its environment with")
        report(f"installing {' '.join(self.packages)} into {home}")
        shutil.rmtree(home, ignore_errors=True)
        pip = [str(python), "-m", "pip"]
        call([interpreter, "-m", "venv", str(home)])
        call([*pip, "install", "--quiet", *self.packages])
        if self.unwanted:
            call([*pip, "uninstall", "--quiet", "--yes", *self.unwanted])
        complete.write_text(json.dumps(self.packages))
        return python


def write_gguf(source: Path, target: Path, matrix_type: gguf.GGMLQuantizationType) -> None:
    """Copies a GGUF file; its matrices are dequantised and then stored as `matrix_type`."""
    partial = target.with_suffix(".partial")
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(partial, "llama")
    for name, entry in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            element = entry.types[-1] if entry.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, entry.contents(), entry.types[0], element)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        stored = matrix_type if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, gguf.quants.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(target)


def call(command: list[str]) -> None:
    """Runs a command to its end; if it fails, the error carries its last words."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = "\n".join((done.stderr or done.stdout).splitlines()[-ERROR_LINES:])
        raise subprocess.SubprocessError(f"{' '.join(command)} failed:\n{words}")
