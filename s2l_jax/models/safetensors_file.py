"""Weights in safetensors files, read tensor by tensor through a memory map."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from s2l_jax.core.errors import InvalidArgument

_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_MAX_HEADER_BYTES = 100 << 20


class SafetensorsFile(Mapping[str, np.ndarray]):
    """The tensors of one file; an array is a read-only view of the mapped file until somebody copies it.

    Each array has a mapping of its own, so that what was read of it counts as this process's memory no longer than
    the array lives.

    Raises:
      InvalidArgument: the file is missing, cut short or malformed, or a tensor asked for has an unknown dtype.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries, self._data_start = self._read_header()

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self._entries[name]
        if entry["dtype"] not in _DTYPES:
            known = ", ".join(_DTYPES)
            raise InvalidArgument(f"{self._path}: tensor {name!r} is {entry['dtype']}, but only {known} can be read")
        begin, end = entry["data_offsets"]
        if begin == end:
            return np.zeros(entry["shape"], _DTYPES[entry["dtype"]])  # nothing cannot be mapped
        raw = np.memmap(self._path, np.uint8, "r", self._data_start + begin, (end - begin,))
        return raw.view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def _read_header(self) -> tuple[dict[str, dict[str, Any]], int]:
        try:
            with self._path.open("rb") as file:
                size_bytes = int.from_bytes(file.read(8), "little")
                if size_bytes > _MAX_HEADER_BYTES:
                    raise ValueError(f"its header claims {size_bytes} bytes")
                entries = json.loads(file.read(size_bytes))
            entries.pop("__metadata__", None)
            data_bytes = self._path.stat().st_size - 8 - size_bytes
            for name, entry in entries.items():
                begin, end = entry["data_offsets"]
                if not 0 <= begin <= end <= data_bytes:
                    raise ValueError(f"tensor {name!r} lies outside the file; it may be cut short")
                if entry["dtype"] in _DTYPES:
                    want = int(np.prod(entry["shape"], dtype=np.int64)) * _DTYPES[entry["dtype"]].itemsize
                    if want != end - begin:
                        raise ValueError(f"tensor {name!r} has {end - begin} bytes, but its shape needs {want}")
        except OSError as error:
            raise InvalidArgument(f"{self._path} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidArgument(f"{self._path} is not a safetensors file: {error}") from error
        return entries, 8 + size_bytes


class ShardedWeights(Mapping[str, np.ndarray]):
    """Tensors spread over several files, as an index file says; files are opened when first needed.

    Args:
      index_path: a `*.safetensors.index.json`; its shards lie beside it.

    Raises:
      InvalidArgument: the index is malformed, or a shard is missing, when it is needed.
    """

    def __init__(self, index_path: Path) -> None:
        try:
            self._shard_of: dict[str, str] = json.loads(index_path.read_text(encoding="utf-8"))["weight_map"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidArgument(f"{index_path} is not an index of safetensors shards: {error}") from error
        for shard in set(self._shard_of.values()):
            if Path(shard).name != shard:
                raise InvalidArgument(f"{index_path}: shard {shard!r} is outside the model directory")
        self._directory = index_path.parent
        self._open: dict[str, SafetensorsFile] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        shard = self._shard_of[name]
        if shard not in self._open:
            self._open[shard] = SafetensorsFile(self._directory / shard)
        return self._open[shard][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shard_of)

    def __len__(self) -> int:
        return len(self._shard_of)


def open_weights(directory: Path) -> Mapping[str, np.ndarray]:
    """The weights of a Hugging Face directory, in one file or in shards.

    Raises:
      InvalidArgument: there are none.
    """
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        return ShardedWeights(index)
    single = directory / "model.safetensors"
    if single.is_file():
        return SafetensorsFile(single)
    raise InvalidArgument(
        f"{directory} has neither model.safetensors nor model.safetensors.index.json; weights in other formats "
        "(pytorch_model.bin, *.gguf) must be converted first"
    )
