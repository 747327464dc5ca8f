"""Whether `jax.experimental.transfer` works between two processes here, found out by a third that may die of it."""

import os
import subprocess
import sys

import numpy as np

from serving.remote.device_link import DeviceLink
from serving.remote.offer import PROBED, Offer

PROBE_S = 60.0


def failure_of(offer: Offer, host: str) -> str | None:
    """Why another process on this machine cannot pull what is offered; None if it can.

    Args:
      offer: of `PROBED`.
      host: address that this machine is reached at.
    """
    arguments = [offer.address, str(offer.key), host]
    command = [sys.executable, "-m", "serving.remote.device_probe", *arguments]
    try:
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PROBE_S, check=False)
    except subprocess.TimeoutExpired:
        return f"nothing has come in {PROBE_S:g} s"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines() or ["no message"]
    return f"it ended with {done.returncode}: {lines[-1]:.300}"


def main(address: str, key: str, host: str) -> None:
    """Pulls, and compares."""
    offer = Offer(address, int(key), 1, (len(PROBED),), "float32")
    (found,) = DeviceLink(host).pull(offer)
    if not np.array_equal(np.asarray(found), np.asarray(PROBED, np.float32)):
        raise SystemExit("something else came than was offered")


if __name__ == "__main__":
    main(*sys.argv[1:])
