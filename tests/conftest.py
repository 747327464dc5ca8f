"""Options of the whole test suite."""

import os

import pytest

QUICK_TO_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""XLA's own passes run as ever; LLVM then spends half the time on what the tests run only a few times."""

os.environ.setdefault("XLA_FLAGS", QUICK_TO_COMPILE)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--law-examples", type=int, default=500, help="random interleavings that the law is tried on, for each engine"
    )
