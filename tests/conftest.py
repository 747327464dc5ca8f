"""Options of the whole test suite."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--law-examples", type=int, default=500, help="random interleavings that the law is tried on, for each engine"
    )
