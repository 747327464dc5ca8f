from collections.abc import Iterator

import openai
import pytest

from tests.serving.http.http_harness import HttpWorld, tiny_world


@pytest.fixture(scope="module")
def tiny(request: pytest.FixtureRequest) -> Iterator[HttpWorld]:
    """A server of the tiny model."""
    with tiny_world(request.config.cache.mkdir("serving")) as one:
        yield one


@pytest.fixture
def client(tiny: HttpWorld) -> Iterator[openai.OpenAI]:
    """OpenAI's client of that server."""
    with openai.OpenAI(base_url=f"{tiny.url}/v1", api_key="none", max_retries=0, timeout=20) as one:
        yield one
