import pytest

from kernels_pallas.gate.gpu import TARGETS, Kernel, _kernels

PTXAS = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'loop_fusion' for 'sm_90a'
ptxas info    : Function properties for loop_fusion
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 512 bytes smem
ptxas info    : Compiling entry function 'paged_decode_abc_mosaic_gpu_kernel' for 'sm_90a'
ptxas info    : Function properties for paged_decode_abc_mosaic_gpu_kernel
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers
"""
PTX = """.target sm_90a
.visible .entry paged_decode_abc_mosaic_gpu_kernel(
	.param .u64 paged_decode_abc_mosaic_gpu_kernel_param_0
)
.maxntid 256, 1, 1
"""


def test_kernels_are_read_from_what_ptxas_says(tmp_path):
    (tmp_path / "module.ptxas").write_text(PTXAS)
    (tmp_path / "module.ptx").write_text(PTX)  # not assembled again
    (tmp_path / "paged_decode_abc_0.resources.txt").write_text("regs=1 smem_scratch_bytes=98304")
    assert list(_kernels(tmp_path)) == [
        Kernel("loop_fusion", 32, 0, 512, None),
        Kernel("paged_decode_abc_mosaic_gpu_kernel", 255, 20, 98304, 256),
    ]


@pytest.mark.parametrize(
    ("registers", "smem_bytes", "threads", "occupancy"),
    [
        (32, 0, 1024, 1.0),  # two blocks of all warps
        (255, 0, 256, 8 / 64),  # 65,280 of 65,536 registers in one block
        (128, 0, 256, 16 / 64),
        (32, 100 << 10, 256, 16 / 64),  # two blocks in 228 KiB
        (32, 120 << 10, 256, 8 / 64),
        (33, 0, 64, 50 / 64),  # registers of a warp come in pieces of 256
        (8, 0, 32, 32 / 64),  # 32 blocks at most
    ],
)
def test_occupancy_is_bound_by_registers_shared_memory_and_threads(registers, smem_bytes, threads, occupancy):
    assert Kernel("k", registers, 0, smem_bytes, threads).occupancy(TARGETS["sm_90"]) == occupancy
