import pytest

from kernels_pallas.gate.markdown import tables, write_tables
from kernels_pallas.gate.row import Row

ROWS = [
    Row("tests/kernels/tpu: 3 passed in 1.00s", "interpreter", True, 2.5),
    Row("decode", "v6e", True, 1.24, 2**21, vmem_bytes=2**20, spill_bytes=0, bundles_per_kv_token=1.5),
    Row(
        "decode",
        "sm_90",
        False,
        3.0,
        0,
        smem_bytes=2**15,
        spill_bytes=8,
        registers=255,
        occupancy=0.125,
        error="8 bytes | spilled\nx",
    ),
]


def test_rows_become_tables():
    text = tables(ROWS)
    assert "Versions: jax " in text
    assert "| tests/kernels/tpu | 3 passed in 1.00s | yes |" in text
    assert "| decode | v6e | yes | 1.2 | 2.00 | 1024 | 0 | 1.50 |  |" in text
    assert "| decode | sm_90 | **no**: 8 bytes \\| spilled | 3.0 | 0.00 | 255 | 8 | 32 | 12% |" in text


def test_tables_go_between_the_marks_of_a_page(tmp_path):
    page = tmp_path / "kernels.md"
    page.write_text("before\n<!-- tables: written by `make kernels` -->\nold\n<!-- end of tables -->\nafter\n")
    write_tables(page, ROWS)
    write_tables(page, ROWS)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("<!-- end of tables -->\nafter\n")
    assert text.count("| decode |") == 2
    assert "old" not in text
    page.write_text("nothing")
    with pytest.raises(ValueError, match="must have the lines"):
        write_tables(page, ROWS)


def test_a_row_comes_back_from_json():
    assert [Row.from_json(row.to_json()) for row in ROWS] == ROWS
