from collections import Counter

from kernels_pallas.gate import tpu
from kernels_pallas.gate.bundles import Loop, read_loops

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


def test_figures_are_of_the_loop_that_multiplies_most_and_is_shortest():
    edge, hot = Loop(1, 130, Counter(vmatmul=20)), Loop(1, 100, Counter(vmatmul=20, vld=50))
    assert tpu._bundles_per_kv_token("paged_decode_50", [edge, hot, Loop(1, 4, Counter(vmatmul=2))]) == 2.0
    assert tpu._bundles_per_kv_token("paged_prefill_50", [edge, hot]) is None
    # 20 instructions of 8 cycles for 2 units in 100 bundles.
    assert tpu._occupancy([edge, hot], "v6e") == 0.8
