"""Chips: what their makers publish of them, and how many of them the machines have that we keep profiles of."""

from dataclasses import dataclass

from s2l_jax.core.errors import InvalidArgument

_GIB = 2**30
_DGX = "2 TB for 8 GPUs (data sheets of DGX H100 and H200)"
_TPU_LINK = (
    "15 GB/s one way, from the exercises on v6e in part 2 of How to Scale Your Model (Austin et al. 2025); "
    "Google publishes none, so all TPUs have it here"
)
_TPU7X_PAGE = "cloud.google.com/tpu/docs/tpu7x"


@dataclass(frozen=True, slots=True)
class Chip:
    """One accelerator.

    Attributes:
      name: in commands and profiles.
      title: for people.
      bf16_flops: dense multiply-adds in bfloat16 a second, each counted as two.
      hbm_bytes: device memory.
      hbm_bytes_s: its bandwidth.
      interconnect_bytes_s: of all links to other chips together, one way; makers add up both ways.
      host_link_bytes_s: to the host, one way.
      dram_bytes: memory of the host, one chip's share of it.
      source: of computing, memory and interconnect.
      host_link_source: of the link to the host.
      dram_source: of the host's memory.
    """

    name: str
    title: str
    bf16_flops: float
    hbm_bytes: int
    hbm_bytes_s: float
    interconnect_bytes_s: float
    host_link_bytes_s: float
    dram_bytes: int
    source: str
    host_link_source: str
    dram_source: str


@dataclass(frozen=True, slots=True)
class Machine:
    """Chips that serve one copy of a model, tensor parallel over all of them."""

    name: str
    chip: Chip
    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InvalidArgument(f"a machine has {self.count} chips, but must have at least 1")

    @property
    def title(self) -> str:
        """In words."""
        if self.count == 1:
            return f"1 x {self.chip.title}"
        return f"{self.count} x {self.chip.title}, tensor parallel"


CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="h200",
            title="NVIDIA H200 SXM",
            bf16_flops=989e12,
            hbm_bytes=141 * 10**9,
            hbm_bytes_s=4.8e12,
            interconnect_bytes_s=450e9,
            host_link_bytes_s=64e9,
            dram_bytes=250 * 10**9,
            source="NVIDIA H200 data sheet: 989 bf16 TFLOP/s dense, 141 GB, 4.8 TB/s, NVLink 900 GB/s both ways",
            host_link_source="NVIDIA H200 data sheet: PCIe Gen5, 128 GB/s both ways",
            dram_source=_DGX,
        ),
        Chip(
            name="h100",
            title="NVIDIA H100 SXM",
            bf16_flops=989e12,
            hbm_bytes=80 * 10**9,
            hbm_bytes_s=3.35e12,
            interconnect_bytes_s=450e9,
            host_link_bytes_s=64e9,
            dram_bytes=250 * 10**9,
            source="NVIDIA H100 data sheet: 989 bf16 TFLOP/s dense, 80 GB, 3.35 TB/s, NVLink 900 GB/s both ways",
            host_link_source="NVIDIA H100 data sheet: PCIe Gen5, 128 GB/s both ways",
            dram_source=_DGX,
        ),
        Chip(
            name="a40",
            title="NVIDIA A40",
            bf16_flops=149.7e12,
            hbm_bytes=48 * 10**9,
            hbm_bytes_s=696e9,
            interconnect_bytes_s=56.25e9,
            host_link_bytes_s=32e9,
            dram_bytes=128 * 10**9,
            source="NVIDIA A40 data sheet: 149.7 bf16 TFLOP/s, 48 GB, 696 GB/s, NVLink bridge 112.5 GB/s both ways",
            host_link_source="NVIDIA A40 data sheet: PCIe Gen4, 64 GB/s both ways",
            dram_source="256 GB for 2 GPUs, as in nodes of the DMOG cluster (its documentation)",
        ),
        Chip(
            name="v5e",
            title="Google TPU v5e",
            bf16_flops=197e12,
            hbm_bytes=16 * 10**9,
            hbm_bytes_s=819e9,
            interconnect_bytes_s=200e9,
            host_link_bytes_s=15e9,
            dram_bytes=64 * _GIB,
            source="cloud.google.com/tpu/docs/v5e: 197 bf16 TFLOP/s, 16 GB, 819 GB/s, ICI 400 GB/s both ways",
            host_link_source=_TPU_LINK,
            dram_source="cloud.google.com/tpu/docs/v5e: 512 GiB for 8 chips",
        ),
        Chip(
            name="v5p",
            title="Google TPU v5p",
            bf16_flops=459e12,
            hbm_bytes=95 * _GIB,
            hbm_bytes_s=2765e9,
            interconnect_bytes_s=600e9,
            host_link_bytes_s=15e9,
            dram_bytes=112 * 10**9,
            source=f"{_TPU7X_PAGE}: 459 bf16 TFLOP/s, 95 GiB, 2765 GB/s, ICI 1200 GB/s both ways",
            host_link_source=_TPU_LINK,
            dram_source=f"{_TPU7X_PAGE}: 448 GB for 4 chips",
        ),
        Chip(
            name="v6e",
            title="Google TPU v6e (Trillium)",
            bf16_flops=918e12,
            hbm_bytes=32 * _GIB,
            hbm_bytes_s=1638e9,
            interconnect_bytes_s=400e9,
            host_link_bytes_s=15e9,
            dram_bytes=180 * 10**9,
            source=f"{_TPU7X_PAGE}: 918 bf16 TFLOP/s, 32 GiB, 1638 GB/s, ICI 800 GB/s both ways",
            host_link_source=_TPU_LINK,
            dram_source=f"{_TPU7X_PAGE}: 720 GB for 4 chips",
        ),
        Chip(
            name="v7x",
            title="Google TPU7x (Ironwood)",
            bf16_flops=2307e12,
            hbm_bytes=192 * _GIB,
            hbm_bytes_s=7380e9,
            interconnect_bytes_s=600e9,
            host_link_bytes_s=15e9,
            dram_bytes=240 * 10**9,
            source=f"{_TPU7X_PAGE}: 2307 bf16 TFLOP/s, 192 GiB, 7380 GB/s, ICI 1200 GB/s both ways",
            host_link_source=_TPU_LINK,
            dram_source=f"{_TPU7X_PAGE}: 960 GB for 4 chips",
        ),
    )
}

# Google counts chips in names of v5e and v6e slices, but TensorCores in those of v5p and TPU7x, which have two a chip:
# v5p-8 is 2x2x1 chips, and v7x-2 one chip.
MACHINES = {
    name: Machine(name, CHIPS[chip], count)
    for name, chip, count in (
        ("h200-tp2", "h200", 2),
        ("h100-tp2", "h100", 2),
        ("a40", "a40", 1),
        ("v5e-8", "v5e", 8),
        ("v5p-8", "v5p", 4),
        ("v6e-8", "v6e", 8),
        ("v7x-2", "v7x", 1),
    )
}


def find_chip(name: str) -> Chip:
    """The chip of this name.

    Raises:
      InvalidArgument: it is not known.
    """
    if name not in CHIPS:
        raise InvalidArgument(f"there is no chip {name!r}; known are {', '.join(CHIPS)}")
    return CHIPS[name]
