"""A short turn of the fuzzers; `python -m tests.fuzz` takes longer ones."""

from pathlib import Path

from tests.fuzz.__main__ import fuzz
from tests.fuzz.target import target


def test_no_input_is_answered_with_a_defect_or_leaves_anything(tmp_path: Path) -> None:
    with target(tmp_path) as server:
        assert len(fuzz(server, 5.0, 0, examples=60)) >= 1
