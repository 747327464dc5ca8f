from dataclasses import dataclass

import jax
import pytest

from s2l_jax.core.errors import InvalidArgument
from serving.config import ServeConfig
from serving.devices import devices_of, devices_of_all, devices_of_world
from serving.slices import Slice


@dataclass(frozen=True)
class Chip:
    index: int
    device_kind: str = "TPU v6 lite"


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


def test_engines_have_roles_and_slices_of_their_own():
    config = ServeConfig(prefill_slices="cpu=2", generate_slices="cpu=1,cpu=1")
    assert [(role, each.text) for role, each in config.engine_slices] == [
        ("prefill", "cpu=2"),
        ("generate", "cpu=1"),
        ("generate", "cpu=1"),
    ]
    assert ServeConfig().engine_slices == (("both", None),)
    assert [each.count for _, each in ServeConfig(slices="tpu=4,tpu=2").engine_slices] == [4, 2]
    with pytest.raises(InvalidArgument, match="go together"):
        ServeConfig(prefill_slices="cpu=2")
    with pytest.raises(InvalidArgument, match="--slices is for engines that do all"):
        ServeConfig(slices="cpu=1", prefill_slices="cpu=2", generate_slices="cpu=2")
    with pytest.raises(InvalidArgument, match="--generate-slices has 'cpu=x', but a slice must look like"):
        ServeConfig(prefill_slices="cpu=2", generate_slices="cpu=2,cpu=x")


def test_without_a_slice_the_default_device_is_taken():
    assert devices_of(None) == (jax.devices()[0],)
    assert devices_of(Slice.parse("cpu=1")) == (jax.devices()[0],)


def test_missing_devices_are_named(monkeypatch):
    with pytest.raises(InvalidArgument, match=r"'cpu=999', but there are \d+ such devices, of cpu"):
        devices_of(Slice.parse("cpu=999"))
    with pytest.raises(InvalidArgument, match="'tpu=1', but there is no such device"):
        devices_of(Slice.parse("tpu=1"))
    chips = [Chip(index, kind) for index, kind in enumerate(("TPU v5 lite", "TPU v6 lite", "TPU v6 lite"))]
    monkeypatch.setattr(jax, "devices", lambda platform: chips)
    assert devices_of(Slice.parse("v6e-2")) == tuple(chips[1:])
    with pytest.raises(InvalidArgument, match="'v5e-2', but there are 1 such devices, of TPU v5 lite, TPU v6 lite"):
        devices_of(Slice.parse("v5e-2"))


def test_slices_share_no_device(monkeypatch):
    chips = [Chip(index) for index in range(5)]
    monkeypatch.setattr(jax, "devices", lambda platform: chips)
    assert devices_of_all(Slice.parse_all("v6e-2,tpu=3")) == [tuple(chips[:2]), tuple(chips[2:])]
    with pytest.raises(
        InvalidArgument, match="there are 5 such devices, of TPU v6 lite, and 4 of them are other engines'"
    ):
        devices_of_all(Slice.parse_all("v6e-4,tpu=2"))
    with pytest.raises(InvalidArgument, match="slices are of cpu and tpu"):
        devices_of_all(Slice.parse_all("tpu=1,cpu=1"))


@dataclass(frozen=True)
class ChipOf(Chip):
    process_index: int = 0


def test_a_slice_of_a_world_has_as_many_devices_of_each_process(monkeypatch):
    chips = [ChipOf(index, process_index=index % 2) for index in range(6)]
    monkeypatch.setattr(jax, "devices", lambda platform: chips)
    assert devices_of_world(Slice.parse("tpu=4"), 2) == (chips[0], chips[2], chips[1], chips[3])
    with pytest.raises(InvalidArgument, match="'tpu=8', but rank 0 of 2 has 3 of them"):
        devices_of_world(Slice.parse("tpu=8"), 2)
    with pytest.raises(InvalidArgument, match="'tpu=3', which cannot be split evenly over 2 processes"):
        devices_of_world(Slice.parse("tpu=3"), 2)
