"""The devices of slices. Importing this module imports the accelerator library."""

from collections.abc import Sequence

import jax

from s2l_jax.core.errors import InvalidArgument
from serving.slices import Slice


def devices_of(wanted: Slice | None) -> tuple[jax.Device, ...]:
    """The devices of a slice; the default one without. Errors are those of `devices_of_all`."""
    return (jax.devices()[0],) if wanted is None else devices_of_all([wanted])[0]


def devices_of_all(wanted: Sequence[Slice]) -> list[tuple[jax.Device, ...]]:
    """The devices of several slices, which share none.

    A CPU counts as one device unless more are asked for before anything runs on it, which this does.

    Raises:
      InvalidArgument: there are not as many, or they are of different platforms.
    """
    platforms = sorted({each.platform for each in wanted})
    if len(platforms) > 1:
        raise InvalidArgument(f"slices are of {' and '.join(platforms)}, but engines must be of one platform")
    if platforms == ["cpu"]:
        _make_cpu_devices(sum(each.count for each in wanted))
    taken: set[jax.Device] = set()
    found = []
    for each in wanted:
        found.append(_find(each, taken))
        taken.update(found[-1])
    return found


def devices_of_world(wanted: Slice, processes: int) -> tuple[jax.Device, ...]:
    """The devices of a slice that spans all processes, as many of each: those of a process behind each other.

    Errors are those of `devices_of_all`.
    """
    each, left = divmod(wanted.count, processes)
    if left:
        raise InvalidArgument(f"a slice is {wanted.text!r}, which cannot be split evenly over {processes} processes")
    if wanted.platform == "cpu":
        jax.config.update("jax_num_cpu_devices", each)
    found = _of_kind(wanted)
    devices = []
    for rank in range(processes):
        here = [device for device in found if device.process_index == rank]
        if len(here) < each:
            raise InvalidArgument(f"a slice is {wanted.text!r}, but rank {rank} of {processes} has {len(here)} of them")
        devices += here[:each]
    return tuple(devices)


def _find(wanted: Slice, taken: set[jax.Device]) -> tuple[jax.Device, ...]:
    of_kind = _of_kind(wanted)
    free = [device for device in of_kind if device not in taken]
    if len(free) < wanted.count:
        names = ", ".join(sorted({device.device_kind for device in jax.devices(wanted.platform)}))
        others = f", and {len(of_kind) - len(free)} of them are other engines'" if taken else ""
        raise InvalidArgument(
            f"a slice is {wanted.text!r}, but there are {len(of_kind)} such devices, of {names}{others}"
        )
    return tuple(free[: wanted.count])


def _of_kind(wanted: Slice) -> list[jax.Device]:
    try:
        found = jax.devices(wanted.platform)
    except RuntimeError as error:
        raise InvalidArgument(f"a slice is {wanted.text!r}, but there is no such device: {error}") from None
    return [device for device in found if wanted.kind in device.device_kind]


def _make_cpu_devices(count: int) -> None:
    if count == 1:
        return
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        return  # something has run already; if that was with enough devices, all is well
