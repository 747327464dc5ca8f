"""The devices of a slice. Importing this module imports the accelerator library."""

import jax

from s2l_jax.core.errors import InvalidArgument
from serving.slices import Slice


def devices_of(wanted: Slice | None) -> tuple[jax.Device, ...]:
    """The devices of a slice; the default one without.

    A CPU counts as one device unless more are asked for before anything runs on it, which this does.

    Raises:
      InvalidArgument: there are not as many.
    """
    if wanted is None:
        return (jax.devices()[0],)
    if wanted.platform == "cpu" and wanted.count > 1:
        _make_cpu_devices(wanted)
    try:
        found = jax.devices(wanted.platform)
    except RuntimeError as error:
        raise InvalidArgument(f"--slices is {wanted.text!r}, but there is no such device: {error}") from None
    of_kind = [device for device in found if wanted.kind in device.device_kind]
    if len(of_kind) < wanted.count:
        names = ", ".join(sorted({device.device_kind for device in found}))
        raise InvalidArgument(f"--slices is {wanted.text!r}, but there are {len(of_kind)} such devices, of {names}")
    return tuple(of_kind[: wanted.count])


def _make_cpu_devices(wanted: Slice) -> None:
    try:
        jax.config.update("jax_num_cpu_devices", wanted.count)
    except RuntimeError:
        return  # something has run already; if that was with enough devices, all is well
