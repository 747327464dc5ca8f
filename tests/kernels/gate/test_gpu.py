from kernels_pallas.gate.gpu import Kernel, _kernels

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


def test_kernels_are_read_from_what_ptxas_says(tmp_path):
    (tmp_path / "module.ptxas").write_text(PTXAS)
    (tmp_path / "module.ptx").write_text(".target sm_90a")  # not assembled again
    (tmp_path / "paged_decode_abc_0.resources.txt").write_text("regs=1 smem_scratch_bytes=98304")
    assert list(_kernels(tmp_path)) == [
        Kernel("loop_fusion", 32, 0, 512),
        Kernel("paged_decode_abc_mosaic_gpu_kernel", 255, 20, 98304),
    ]
