import types

import jax
import pytest

from s2l_jax.core.errors import InvalidArgument
from serving.config import ServeConfig
from serving.devices import devices_of
from serving.slices import Slice


@pytest.mark.parametrize(
    ("text", "platform", "count", "kind"),
    [("cpu=2", "cpu", 2, ""), ("gpu=1", "gpu", 1, ""), ("tpu=16", "tpu", 16, ""), ("v5e-8", "tpu", 8, "v5 lite")],
)
def test_slices_are_read(text, platform, count, kind):
    assert Slice.parse(text) == Slice(text, platform, count, kind)


@pytest.mark.parametrize("text", ["", "cpu", "cpu=0", "cpu=-1", "npu=2", "v5e", "v4-8", "cpu=2 "])
def test_what_is_no_slice_is_named(text):
    with pytest.raises(InvalidArgument, match="must look like cpu=2"):
        ServeConfig(slices=text)


def test_several_slices_are_for_later():
    with pytest.raises(InvalidArgument, match="give one"):
        Slice.parse("tpu=4+tpu=4")


def test_without_a_slice_the_default_device_is_taken():
    assert devices_of(None) == (jax.devices()[0],)
    assert devices_of(Slice.parse("cpu=1")) == (jax.devices()[0],)


def test_missing_devices_are_named(monkeypatch):
    with pytest.raises(InvalidArgument, match=r"'cpu=999', but there are \d+ such devices, of cpu"):
        devices_of(Slice.parse("cpu=999"))
    with pytest.raises(InvalidArgument, match="'tpu=1', but there is no such device"):
        devices_of(Slice.parse("tpu=1"))
    chips = [types.SimpleNamespace(device_kind=kind) for kind in ("TPU v5 lite", "TPU v6 lite", "TPU v6 lite")]
    monkeypatch.setattr(jax, "devices", lambda platform: chips)
    assert devices_of(Slice.parse("v6e-2")) == tuple(chips[1:])
    with pytest.raises(InvalidArgument, match="'v5e-2', but there are 1 such devices, of TPU v5 lite, TPU v6 lite"):
        devices_of(Slice.parse("v5e-2"))
