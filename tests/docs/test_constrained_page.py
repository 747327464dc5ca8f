"""The examples of docs/constrained.md, run as they are written, against the tiny model; gRPC's over a fake engine."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.harness import threaded_world
from tests.serving.http.http_harness import tiny_world

PAGE = Path(__file__).parents[2] / "docs" / "constrained.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def places(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """What stands in the page, and what it is here."""
    with tiny_world(request.config.cache.mkdir("serving")) as one, threaded_world() as other:
        yield {"http://127.0.0.1:8000": one.url, "grpc://127.0.0.1:9000": other.target, "smollm2-135m": "tiny-random"}


def test_there_are_examples_of_both_kinds() -> None:
    assert [kind for kind, _ in BLOCKS] == ["python", "python", "sh", "python", "python"]


SAID = (
    r"name='.*' colour='(red|green|yellow)' seeds=\d+",
    r"\d{4}-\d\d-\d\d\n(yes|no)\n(1|\"two\"|null)",
    r'"finish_reason":"stop"',
    r"get_weather {'city': '(Paris|Rome)', 'unit': '(C|F)'}",
    "a cat|a dog|neither",
)


@pytest.mark.parametrize(("index", "said"), list(enumerate(SAID)))
def test_the_examples_work(places: dict[str, str], index: int, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    kind, text = BLOCKS[index]
    for written, here in places.items():
        text = text.replace(written, here)
    if kind == "sh":
        subprocess.run(["bash", "-c", text], check=True, timeout=20)
    else:
        exec(compile(text, f"{PAGE.name}, example {index}", "exec"), {"__name__": "example"})
    assert re.search(said, capfd.readouterr().out)
