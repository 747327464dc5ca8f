"""Pages of an engine of several processes, whole. Importing this module imports the accelerator library."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from s2l_jax.engine.buckets import COPIED_PAGES
from s2l_jax.engine.device_code import Contents
from s2l_jax.engine.engine import JaxEngine


def whole(contents: Contents) -> Contents:
    """Pages that are split over processes, on all devices of all of them; all have to ask for it."""
    return tuple(_on_all(piece.sharding)(piece) for piece in contents)


def rehearse(engine: JaxEngine) -> None:
    """Compiles `whole` for all numbers of pages; all processes have to do so."""
    for pages in COPIED_PAGES:
        nothing = np.zeros((pages, *engine.page_shape), engine.config.dtype)
        jax.block_until_ready(whole(engine.place((nothing,))))


@functools.cache
def _on_all(sharding: NamedSharding) -> Callable[[Array], Array]:
    return jax.jit(_same, out_shardings=NamedSharding(sharding.mesh, PartitionSpec()))


def _same(pages: Array) -> Array:
    return pages
