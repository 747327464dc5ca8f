import types

import pytest

from kernels_pallas.gate.case import Case
from kernels_pallas.gate.hlo import error_of, temp_bytes

POOL_BYTES = 2048 * 8 * 64 * 256 * 2
# As XLA prints an optimized program.
GOOD = """
  %copy = bf16[64,8,256]{2,0,1:T(8,128)(2,1)S(1)} copy(%pad_maximum_fusion), metadata={op_name="x"}
  ROOT %scatter_fusion = bf16[2048,8,64,256]{3,2,1,0:T(8,128)(2,1)} fusion(%kv_pages.1, %copy), kind=kCustom
"""
COPIES = GOOD + "  %copy.7 = bf16[2048,8,64,256]{2,3,1,0} copy(%kv_pages.1)\n"
SUMS = GOOD + "  %psum.1 = bf16[64,4096]{1,0} all-reduce(%dot), channel_id=1\n" * 2
STARTS = (
    GOOD + "  %ar = (bf16[64,4096]{1,0}, u32[]) all-reduce-start(%dot), channel_id=1\n  %d = all-reduce-done(%ar)\n"
)


def case(**collectives):
    return Case(
        "c", None, (), (), POOL_BYTES, collectives={name.replace("_", "-"): n for name, n in collectives.items()}
    )


def program(text, temp=0):
    analysis = types.SimpleNamespace(temp_size_in_bytes=temp)
    return types.SimpleNamespace(as_text=lambda: text, memory_analysis=lambda: analysis)


@pytest.mark.parametrize(
    ("found", "wanted", "error"),
    [
        (program(GOOD), case(), None),
        (program(COPIES), case(), "copies as large as the page pool: copy.7"),
        (program(GOOD, POOL_BYTES), case(), f"{POOL_BYTES} bytes of temporary memory, as much as the page pool"),
        (program(SUMS), case(all_reduce=2), None),
        (program(STARTS), case(all_reduce=1), None),
        (program(SUMS), case(), "between devices it has {'all-reduce': 2}, but should have {}"),
        (program(GOOD), case(all_reduce=2), "it has {}, but should have {'all-reduce': 2}"),
    ],
)
def test_what_is_wrong_with_a_program(found, wanted, error):
    assert error_of(wanted, found) is None if error is None else error in error_of(wanted, found)


def test_a_compiler_need_not_tell_how_much_memory_it_takes():
    assert temp_bytes(types.SimpleNamespace(memory_analysis=lambda: None)) == 0
    assert temp_bytes(program(GOOD, 7)) == 7
