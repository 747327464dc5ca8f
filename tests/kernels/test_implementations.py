"""Which implementation runs."""

import logging
import types

import jax
import numpy as np
import pytest

from kernels_pallas import implementations

Q = np.zeros((4, 4, 64), np.float32)
PAGES = np.zeros((3, 2, 16, 128), np.float32)
TABLES = np.zeros((4, 2), np.int32)


def choose(name=None):
    return implementations.choose(name, Q, PAGES, TABLES, sliding_window=None, soft_cap=None)


@pytest.fixture
def refusing(monkeypatch):
    """An implementation that can do nothing, and that suits this device best."""
    module = types.SimpleNamespace(unsupported=lambda q, kv_pages, block_tables, **_: f"{kv_pages.dtype} is not enough")
    monkeypatch.setitem(implementations.MODULES, "refusing", "refusing_module")
    monkeypatch.setitem(__import__("sys").modules, "refusing_module", module)
    monkeypatch.setattr(implementations, "best", lambda: "refusing")
    implementations._say_once.cache_clear()


def test_a_cpu_takes_plain_xla():
    assert implementations.best() == "xla"
    assert choose().__module__ == "kernels_pallas.reference"


@pytest.mark.parametrize(
    ("platform", "kind", "name"),
    [
        ("tpu", "TPU v6 lite", "mosaic_tpu"),
        ("gpu", "NVIDIA H100 80GB HBM3", "mosaic_gpu"),
        ("gpu", "NVIDIA B200", "mosaic_gpu"),
        ("gpu", "NVIDIA A100-SXM4-80GB", "xla"),
        ("gpu", "NVIDIA GeForce RTX 5090", "xla"),
    ],
)
def test_the_device_decides(monkeypatch, platform, kind, name):
    device = types.SimpleNamespace(platform=platform, device_kind=kind)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert implementations.best() == name


@pytest.mark.usefixtures("refusing")
def test_what_the_best_cannot_do_xla_does_and_the_log_says_why_once(caplog):
    with caplog.at_level(logging.WARNING):
        assert choose().__module__ == choose().__module__ == "kernels_pallas.reference"
    assert [record.getMessage() for record in caplog.records] == [
        "attention runs as plain XLA instead of refusing: float32 is not enough"
    ]


@pytest.mark.usefixtures("refusing")
def test_what_was_asked_for_by_name_is_not_replaced():
    with pytest.raises(ValueError, match="'refusing' cannot do this: float32 is not enough"):
        choose("refusing")
