"""Writes checkpoints (`s2l_jax.models.checkpoint`), layer by layer."""

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding
from jaxtyping import Array

from s2l_jax.core.errors import InvalidArgument, ResourceExhausted
from s2l_jax.models import tiny_random
from s2l_jax.models.checkpoint import WEIGHTS, Manifest, TensorFacts, item_of
from s2l_jax.models.llama import check_weights, weight_shapes
from s2l_jax.models.placing import Layout, abstract
from s2l_jax.models.quantization import check_quantization, is_quantized, quantize, scale_name
from s2l_jax.models.registry import DTYPES, LoadedModel
from s2l_jax.models.tokenizer import ByteTokenizer

FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
_SPARE_BYTES = 16 << 20  # for the files, and for what orbax notes about arrays

Progress = Callable[[int, int, str], None]
"""Called as `progress(bytes done, bytes in all, what is written next)`."""


def write_checkpoint(
    model: LoadedModel,
    out: Path,
    *,
    dtype: str | None = None,
    quantization: str | None = None,
    devices: Sequence[jax.Device] = (),
    progress: Progress | None = None,
) -> Manifest:
    """Writes a model as a checkpoint, whole or not at all.

    Everything goes into a hidden directory beside `out`, which takes that name at the end. If something fails it is
    removed; if the process is killed it stays, under its hidden name and without a manifest.

    Args:
      model: what to write; its weights are read a layer at a time.
      out: the checkpoint's directory, which must not exist.
      dtype: of weights that are not quantised, a key of `DTYPES`; None keeps that of each.
      quantization: `int8`, or None, which keeps weights as they are.
      devices: arrays are cut into a piece for each, since whoever reads a part of an array reads whole pieces; without
        any, nothing is cut.
      progress: told how far it is.

    Raises:
      ResourceExhausted: the disk is full, or would be.
      InvalidArgument: the model is not complete, `dtype` or `quantization` is unknown, `out` exists or cannot be made.
    """
    check_quantization(quantization)
    if dtype is not None and dtype not in DTYPES:
        raise InvalidArgument(f"dtype is {dtype!r}, but must be one of {', '.join(DTYPES)}")
    check_weights(model.config, abstract(model.weights))
    if os.path.lexists(out):
        raise InvalidArgument(f"{out} exists already: remove it, or give another name")
    writer = _Writer(model, dtype, quantization, Layout.on(devices or jax.devices("cpu")[:1]))
    with _readable_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        _check_room(out, writer.total_bytes)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent.absolute()))
        try:
            work.chmod(0o755)  # temporary directories are for one user alone
            writer.write(work, progress or (lambda done, total, item: None))
            work.rename(out)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return writer.manifest


class _Writer:
    """Writes one model.

    Attributes:
      manifest: what it will say about itself.
      total_bytes: of all arrays.
    """

    def __init__(self, model: LoadedModel, dtype: str | None, quantization: str | None, layout: Layout) -> None:
        self._model, self._layout = model, layout
        kept = abstract(model.weights)
        self._items: dict[str, list[str]] = {}
        tensors: dict[str, TensorFacts] = {}
        for name, shape in weight_shapes(model.config).items():
            self._items.setdefault(item_of(name), []).append(name)
            if kept[name].dtype == np.int8 or (quantization is not None and is_quantized(name)):
                tensors[name] = TensorFacts(shape, "int8")
                tensors[scale_name(name)] = TensorFacts(shape[:1], "float32")
            else:
                tensors[name] = TensorFacts(shape, dtype or _narrow(kept[name].dtype).name)
        is_int8 = any(facts.dtype == "int8" for facts in tensors.values())
        self.manifest = Manifest(
            name=model.config.name,
            source=model.provenance.source,
            licence=model.provenance.licence,
            dtype=tensors["model.embed_tokens.weight"].dtype,
            quantization="int8" if is_int8 else None,
            tokenizer="bytes" if isinstance(model.tokenizer, ByteTokenizer) else "files",
            tensors=tensors,
        )
        self.total_bytes = sum(self._bytes(name) for name in tensors)

    def write(self, directory: Path, progress: Progress) -> None:
        """Writes everything, the manifest last."""
        import orbax.checkpoint as ocp

        done_bytes = 0
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            for item, names in self._items.items():
                progress(done_bytes, self.total_bytes, item)
                arrays = {name: array for weight in names for name, array in self._arrays(weight)}
                checkpointer.save(directory / WEIGHTS / item, args=ocp.args.PyTreeSave(item=arrays))
                done_bytes += sum(map(self._bytes, arrays))
        progress(done_bytes, self.total_bytes, "files")
        self._write_files(directory)
        self.manifest.write(directory)
        for path in directory.iterdir():  # or the rename that follows may outlive the data in a power failure
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())

    def _arrays(self, name: str) -> Iterator[tuple[str, Array]]:
        """A weight as it will be kept, and its scales if it has any."""
        value, facts = self._model.weights[name], self.manifest.tensors[name]
        if facts.dtype != "int8":
            yield name, self._placed(name, value.astype(facts.dtype, copy=False))
        elif value.dtype == np.int8:
            yield name, self._placed(name, value)
            yield scale_name(name), self._placed(scale_name(name), self._model.weights[scale_name(name)])
        else:
            weight, scales = quantize(self._placed(name, value.astype(_narrow(value.dtype), copy=False)))
            yield name, weight
            yield scale_name(name), scales

    def _placed(self, name: str, value: np.ndarray) -> Array:
        divides = self._layout.shape(name, value.shape) == value.shape
        whole: Sharding = SingleDeviceSharding(self._layout.devices[0])
        return jax.device_put(value, self._layout.sharding(name) if divides else whole)

    def _write_files(self, directory: Path) -> None:
        source = self._model.directory
        if source is None:
            config = json.dumps(tiny_random.hf_config(self._model.config), indent=1)
            (directory / "config.json").write_text(config, encoding="utf-8")
            return
        for name in FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, directory / name)

    def _bytes(self, name: str) -> int:
        facts = self.manifest.tensors[name]
        return math.prod(facts.shape) * jnp.dtype(facts.dtype).itemsize


def _narrow(dtype: np.dtype) -> np.dtype:
    """JAX computes in 32 bits at most."""
    return dtype if dtype.itemsize <= 4 else np.dtype(np.float32)


def _check_room(out: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(out.parent).free
    if free_bytes < needed_bytes + _SPARE_BYTES:
        raise ResourceExhausted(
            f"{out} needs {needed_bytes / 1e9:.2f} GB, but {free_bytes / 1e9:.2f} GB are free there: make room, or "
            "give another directory"
        )


@contextmanager
def _readable_errors(out: Path) -> Iterator[None]:
    """What goes wrong while files are written, as an error for the user."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        if getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT} or os.strerror(errno.ENOSPC) in str(error):
            raise ResourceExhausted(f"{out} was not written, the disk is full: {reason}") from error
        raise InvalidArgument(f"{out} was not written: {reason}") from error
