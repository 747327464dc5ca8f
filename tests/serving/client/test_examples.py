"""The examples run, as they are, against a server."""

import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.serving.harness import Sizes, threaded_world

EXAMPLES = Path(__file__).parents[3] / "examples"
LIBRARIES = {"langchain_retriever.py": "langchain_core", "llama_index_retriever.py": "llama_index"}


def test_every_example_is_run_here() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(LIBRARIES)


@pytest.mark.parametrize("example", LIBRARIES)
def test_example(example: str) -> None:
    if find_spec(LIBRARIES[example]) is None:
        pytest.skip(f"{LIBRARIES[example]} is not installed")
    with threaded_world(Sizes(model_len=1024, num_blocks=2048)) as one:
        out = subprocess.run(
            [sys.executable, EXAMPLES / example, "--target", one.target],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout
    notes = runpy.run_path(str(EXAMPLES / example))["NOTES"]
    documents = "".join(f"## {title}\n{notes[title]}\n\n" for title in ("Rex", "Mia", "Tom"))
    assert out.startswith(one.expected(f"<{documents}|Who is afraid of Mia?>", 32) + "\n")
    assert re.findall(r"(\d) documents: Saved\(kept_tokens", out) == ["0", "1", "3"]
    assert "rank order would have kept about" in out
