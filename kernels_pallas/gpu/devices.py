"""What the kernels must know of the device they are built for: the mesh's, or the default one without a mesh."""

import jax

_BLACKWELL = ("B200", "B300")
_MULTIPROCESSORS = {"H100": 132, "H200": 132, "H20": 78, "B200": 148, "B300": 148}
_INTERPRETED = 4  # on a CPU, which interprets: enough that sequences are split
_UNITS_EACH = 2  # units of decoding for each multiprocessor, so that the last ones to finish are short


def is_blackwell() -> bool:
    """Whether the tensor cores are those of Blackwell; a CPU interprets Hopper's."""
    return any(name in _kind() for name in _BLACKWELL)


def units_wanted() -> int:
    """Blocks of threads that keep all multiprocessors busy while decoding."""
    return _UNITS_EACH * next((count for name, count in _MULTIPROCESSORS.items() if name in _kind()), _INTERPRETED)


def _kind() -> str:
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
    kind: str = device.device_kind
    return kind
