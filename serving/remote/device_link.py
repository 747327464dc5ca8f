"""Arrays between the devices of two processes through `jax.experimental.transfer`, and what it takes to live with that.

On jax 0.12.0.1 it waits for ever for an address where nobody is, for arrays that nobody offers and for a process that
has stopped, whatever time-out it is given; it takes arrays of another shape or dtype for what was asked for if only
their bytes are as many; and it keeps arrays that nobody pulls, even if they are deleted. So every pull has a deadline
here, after which its connection is not used any more, and says what it expects; and arrays are offered when somebody is
about to pull them.

What cannot be helped: whoever sends a few bytes of something else to its port ends the process (`SIGABRT`). So it is
only used by those who ask for it, and binds to one address.
"""

import itertools
import threading
import time
from typing import Any

import jax
from jax.experimental import transfer
from jax.sharding import SingleDeviceSharding

from s2l_jax.core.errors import Unavailable
from s2l_jax.transport.protocol import Pages
from serving.remote.offer import Offer

PULL_S = 30.0
_LOOK_S = 0.0005


class DeviceLink:
    """One process's end. Any thread may call.

    Args:
      host: address to bind to, which other processes reach.
      device: where pages are offered from and pulled to, in one part; None takes the first one here.

    Raises:
      Unavailable: it cannot bind there.
    """

    def __init__(self, host: str, device: jax.Device | None = None) -> None:
        self._device = device or jax.local_devices()[0]
        bound = f"[{host}]:0" if ":" in host else f"{host}:0"
        try:
            # Without addresses for the data, a process that others pull from aborts.
            self._server = transfer.start_transfer_server(self._device.client, bound, [bound])
        except RuntimeError as error:
            raise Unavailable(f"KV cannot be offered at {host}: {error}") from error
        self._keys = itertools.count(1)
        self._lock = threading.Lock()
        self._connections: dict[str, Any] = {}

    def offer(self, pages: Pages) -> Offer:
        """Makes pages, of any devices here or of NumPy, ready to be pulled."""
        arrays = jax.device_put(list(pages), self._device)
        key = next(self._keys)
        self._server.await_pull(key, arrays)
        return Offer(self._server.address(), key, len(arrays), arrays[0].shape, str(arrays[0].dtype))

    def pull(self, offer: Offer, timeout_s: float = PULL_S) -> Pages:
        """Brings pages here.

        Raises:
          Unavailable: they have not come in time, or something broke.
        """
        spec = jax.ShapeDtypeStruct(offer.shape, offer.dtype, sharding=SingleDeviceSharding(self._device))
        end_s = time.monotonic() + timeout_s
        try:
            arrays = self._connection(offer.address).pull(offer.key, [spec] * offer.pieces)
            while not all(array.is_ready() for array in arrays):
                if time.monotonic() > end_s:
                    raise TimeoutError(f"nothing has come in {timeout_s:g} s")
                time.sleep(_LOOK_S)
            return tuple(jax.block_until_ready(arrays))
        except (RuntimeError, TimeoutError) as error:
            with self._lock:
                self._connections.pop(offer.address, None)
            raise Unavailable(f"pages could not be pulled from {offer.address}: {error}") from error

    def _connection(self, address: str) -> Any:
        with self._lock:
            if address not in self._connections:
                self._connections[address] = self._server.connect(address)
            return self._connections[address]
