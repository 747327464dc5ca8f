"""Pages as bounded messages, checked on arrival."""

import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from s2l_jax.core.errors import InvalidArgument
from serving.protos.s2l.v1 import engine_pb2 as pb

PART_BYTES = 1 << 20
LARGEST_BYTES = 1 << 30
_DIMENSIONS = 5  # pages, layers, kv_heads, block_size, kv_dim
_DTYPES = {
    str(dtype): dtype
    for dtype in (np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.int8), np.dtype(ml_dtypes.bfloat16))
}


def whole(pages: Sequence[Any]) -> np.ndarray:
    """Pages in this process's memory, in one piece: `[pages, layers, kv_heads, block_size, kv_dim]`."""
    pieces = [np.asarray(piece) for piece in pages]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def parts_of(pages: np.ndarray, owner: int, key: int) -> Iterator[pb.PagePart]:
    """Cuts pages, `[pages, layers, kv_heads, block_size, kv_dim]`, into messages."""
    yield pb.PagePart(owner=owner, key=key, shape=pages.shape, dtype=str(pages.dtype))
    content = np.ascontiguousarray(pages).view(np.uint8).reshape(-1)
    for start in range(0, content.size, PART_BYTES):
        part = content[start : start + PART_BYTES].tobytes()
        yield pb.PagePart(content=part, crc32=zlib.crc32(part))


def join(parts: Iterable[pb.PagePart]) -> tuple[pb.PagePart, np.ndarray]:
    """Puts messages together; returns the first of them, and the pages.

    Raises:
      InvalidArgument: they are too many, too few, damaged, or no pages.
    """
    stream = iter(parts)
    head = next(stream, None)
    if head is None:
        raise InvalidArgument("pages came without a head")
    dtype = _DTYPES.get(head.dtype)
    byte_count = 0 if dtype is None else math.prod(head.shape) * dtype.itemsize
    if dtype is None or len(head.shape) != _DIMENSIONS or not 0 < byte_count <= LARGEST_BYTES:
        raise InvalidArgument(f"pages of shape {list(head.shape)} and dtype {head.dtype!r} cannot be taken")
    content, end = np.empty(byte_count, np.uint8), 0
    for part in stream:
        start, end = end, end + len(part.content)
        if end > byte_count or zlib.crc32(part.content) != part.crc32:
            raise InvalidArgument(f"a part of pages is damaged, or past their end of {byte_count} bytes")
        content[start:end] = np.frombuffer(part.content, np.uint8)
    if end != byte_count:
        raise InvalidArgument(f"{end} of {byte_count} bytes of pages came")
    return head, content.view(dtype).reshape(tuple(head.shape))
