"""Pages between engines of one process."""

import jax.numpy as jnp
import numpy as np
import pytest

from s2l_jax.core.errors import InternalError
from s2l_jax.transport.in_process import InProcessTransport
from s2l_jax.transport.protocol import Pages

TIMEOUT_S = 20.0


def as_they_come(pages: Pages) -> Pages:
    return pages


def test_pages_of_a_cpu_device_are_not_copied() -> None:
    transport = InProcessTransport()
    pages = (jnp.arange(8.0), jnp.ones(4))
    found = transport.fetch(transport.offer(pages), as_they_come).result(TIMEOUT_S)
    assert [piece.ctypes.data for piece in found] == [piece.unsafe_buffer_pointer() for piece in pages]
    np.testing.assert_array_equal(found[0], np.arange(8.0))
    transport.close()


def test_pages_go_once() -> None:
    transport = InProcessTransport()
    ticket, other = transport.offer("pages"), transport.offer("others")
    assert transport.fetch(ticket, as_they_come).result(TIMEOUT_S) == "pages"
    transport.withdraw(other)
    for gone in (ticket, other):
        with pytest.raises(InternalError, match="withdrawn or fetched before"):
            transport.fetch(gone, as_they_come).result(TIMEOUT_S)
    transport.close()
