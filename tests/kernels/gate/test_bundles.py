from kernels_pallas.gate.bundles import read_loops

# As libtpu prints final bundles: address, label, depth of the loop, instructions.
TEXT = """
// kernel
     0   :  { %s1 = inlined_call_operand.hbm ;;  %s2 = smov 0 }
   0x1 LB: > { %v3 = vld [vmem:[%s2]] ;;  %4 = vmatmul.bf16.gmra.mxu0 %v3 }
   0x2   : > { %5 = vmatmul.bf16.gmra.mxu1 %v3 }
   0x3 LB: >> { %v6 = vadd.f32 %v3, %v3 }
   0x4   : >> { %7 = sbr.rel (%p1) target = $region }
   0x5   :  {}
   0x6   : > { %v8 = vmul.f32 %v3, %v3 }
   0x7   :  { %9 = vsyncpa 1 }
"""


def test_bundles_belong_to_the_innermost_loop(tmp_path):
    path = tmp_path / "7-kernel-final_bundles.txt"
    path.write_text(TEXT)
    whole, outer, inner = read_loops(path)
    assert [(loop.depth, loop.bundles) for loop in (whole, outer, inner)] == [(0, 2), (1, 3), (2, 3)]
    assert (outer.matmuls, inner.matmuls, whole.matmuls) == (2, 0, 0)
    assert outer.operations["vmul"] == outer.operations["vld"] == 1
