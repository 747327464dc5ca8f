"""One compiled engine on the tiny model for all tests of this folder."""

from pathlib import Path

import pytest

from s2l_jax.engine.config import EngineConfig
from s2l_jax.engine.engine import JaxEngine
from s2l_jax.models import registry
from s2l_jax.models.registry import LoadedModel


@pytest.fixture(scope="session")
def cache_dir(request: pytest.FixtureRequest) -> Path:
    """Survives the test run, so that a second one does not compile."""
    return request.config.cache.mkdir("engine")


@pytest.fixture(scope="session")
def tiny() -> LoadedModel:
    return registry.load("tiny-random", dtype="float32")


@pytest.fixture(scope="session")
def config(cache_dir: Path) -> EngineConfig:
    return EngineConfig(
        num_blocks=40, block_size=4, token_budget=16, max_batch=4, max_sessions=6, max_model_len=48, cache_dir=cache_dir
    )


@pytest.fixture(scope="session")
def engine(tiny: LoadedModel, config: EngineConfig) -> JaxEngine:
    engine = JaxEngine(tiny.build(), tiny.config, config)
    engine.warmup()
    return engine
