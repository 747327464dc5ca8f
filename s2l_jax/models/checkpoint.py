"""Checkpoints of this project: weights by orbax, and beside them all that a server needs.

    s2l_checkpoint.json    what the weights are; written last, so that a folder without it is no checkpoint
    config.json, tokenizer.json, ...    as Hugging Face has them
    weights/embed_tokens, weights/layers.0, ..., weights/head    orbax checkpoints: names of Hugging Face to arrays

One orbax checkpoint for each layer: a model is written and read layer by layer, so that the host holds one at most.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

import jax
import numpy as np
from jaxtyping import Array

from s2l_jax.core.errors import InvalidArgument
from s2l_jax.models.placing import DtypeOf, Layout

MANIFEST = "s2l_checkpoint.json"
WEIGHTS = "weights"
FORMAT = 1

_LAYER = "model.layers."
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError)


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """Shape and dtype of one array."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint says about itself.

    Attributes:
      name: what users call the model.
      source: what it was made of, for people.
      licence: SPDX identifier, None if the source does not say.
      dtype: of weights that are not in int8.
      quantization: `int8`, or None.
      tokenizer: `files` are Hugging Face's, beside the manifest; `bytes` needs none.
      tensors: of each weight.
    """

    name: str
    source: str
    licence: str | None
    dtype: str
    quantization: str | None
    tokenizer: str
    tensors: Mapping[str, TensorFacts]

    def write(self, directory: Path) -> None:
        """Writes it into the directory of a checkpoint."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False)
        (directory / MANIFEST).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Reads that of a checkpoint.

        Raises:
          InvalidArgument: it is malformed, or of a format that this version does not know.
        """
        path = directory / MANIFEST
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            version = raw.pop("format")
            if version != FORMAT:
                raise InvalidArgument(f"{path} is of format {version}, but this version reads {FORMAT}: convert again")
            tensors = {
                name: TensorFacts(tuple(facts["shape"]), facts["dtype"]) for name, facts in raw["tensors"].items()
            }
            return cls(**raw | {"tensors": tensors})
        except _UNREADABLE as error:
            raise InvalidArgument(f"{path} cannot be read: {error}") from error


def is_checkpoint(directory: Path) -> bool:
    """Whether a directory is a checkpoint of this project."""
    return (directory / MANIFEST).is_file()


def item_of(name: str) -> str:
    """The orbax checkpoint that has a weight."""
    if name.startswith(_LAYER):
        return f"layers.{name.removeprefix(_LAYER).split('.')[0]}"
    return "embed_tokens" if "embed_tokens" in name else "head"


class CheckpointWeights(Mapping[str, np.ndarray]):
    """Weights of a checkpoint; as arrays of NumPy they are read a layer at a time.

    Attributes:
      abstract: shape and dtype of each, as it is kept.

    Raises:
      InvalidArgument: a part of the checkpoint is missing or broken, when it is needed; the message names it.
    """

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self._directory = directory / WEIGHTS
        self.abstract: Mapping[str, jax.ShapeDtypeStruct] = {
            name: jax.ShapeDtypeStruct(facts.shape, np.dtype(facts.dtype)) for name, facts in manifest.tensors.items()
        }
        self._item = ""
        self._read: dict[str, np.ndarray] = {}
        for item in {item_of(name) for name in self.abstract}:
            if not (self._directory / item).is_dir():
                raise InvalidArgument(f"{self._directory / item} is missing: the checkpoint is not complete")

    def __getitem__(self, name: str) -> np.ndarray:
        item = item_of(name)
        if item != self._item:
            wanted = {each: self.abstract[each] for each in self._names_of(item)}
            self._item, self._read = item, restore(self._directory / item, wanted, self.abstract)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.abstract)

    def __len__(self) -> int:
        return len(self.abstract)

    def on(self, layout: Layout, dtype_of: DtypeOf) -> Mapping[str, Array]:
        """The weights on devices: see `PlacesItself`."""
        wanted = {
            name: jax.ShapeDtypeStruct(
                layout.shape(name, kept.shape), dtype_of(name, kept.dtype), sharding=layout.sharding(name)
            )
            for name, kept in self.abstract.items()
        }
        return _Restored(self._directory, wanted, self.abstract)

    def _names_of(self, item: str) -> list[str]:
        return [name for name in self.abstract if item_of(name) == item]


class _Restored(Mapping[str, Array]):
    """Weights that are restored layer by layer; each may be taken once, and is then no longer held here."""

    def __init__(
        self,
        directory: Path,
        wanted: Mapping[str, jax.ShapeDtypeStruct],
        kept: Mapping[str, jax.ShapeDtypeStruct],
    ) -> None:
        self._directory, self._wanted, self._kept = directory, wanted, kept
        self._read: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        if name not in self._read:
            item = item_of(name)
            wanted = {each: target for each, target in self._wanted.items() if item_of(each) == item}
            self._read |= restore(self._directory / item, wanted, self._kept)
        return self._read.pop(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._wanted)

    def __contains__(self, name: object) -> bool:
        return name in self._wanted

    def __len__(self) -> int:
        return len(self._wanted)


def restore(
    item: Path, wanted: Mapping[str, jax.ShapeDtypeStruct], kept: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, Any]:
    """Reads one orbax checkpoint.

    Args:
      item: its directory.
      wanted: shape, dtype and place of each array; arrays of NumPy where there is no place. A longer shape is filled
        up with zeros.
      kept: what there should be.

    Raises:
      InvalidArgument: it is missing or broken.
    """
    import orbax.checkpoint as ocp

    def arguments(name: str, target: jax.ShapeDtypeStruct) -> ocp.RestoreArgs:
        if target.sharding is None:
            return ocp.RestoreArgs(restore_type=np.ndarray, dtype=target.dtype)
        return ocp.ArrayRestoreArgs(
            sharding=target.sharding,
            global_shape=target.shape,
            dtype=target.dtype,
            strict=target.shape == kept[name].shape,
        )

    how = {name: arguments(name, target) for name, target in wanted.items()}
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            read = checkpointer.restore(
                item.absolute(), args=ocp.args.PyTreeRestore(item=dict(wanted), restore_args=how)
            )
        read = jax.block_until_ready(read)
    except _UNREADABLE as error:
        _refuse(item, error)
    for name, target in wanted.items():
        if read[name].shape != target.shape:
            raise InvalidArgument(f"{item} has {name!r} of shape {read[name].shape}, not {target.shape}: it is broken")
    return read


def _refuse(item: Path, error: Exception) -> NoReturn:
    first_line = str(error).strip().split("\n", maxsplit=1)[0]
    raise InvalidArgument(f"{item} cannot be restored, it is missing or broken: {first_line}") from error
