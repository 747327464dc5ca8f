"""How a process learns which of how many it is."""

import pytest

from s2l_jax.core.errors import InvalidArgument
from serving.commands.world_options import take_world_config
from serving.config import ServeConfig
from serving.world.config import WorldConfig

NOTHING = {
    "launcher": None,
    "world_size": None,
    "world_rank": None,
    "world_address": None,
    "world_silence_s": 10.0,
    "world_join_s": 600.0,
}


def taken(**options: object) -> WorldConfig | None:
    return take_world_config(NOTHING | options)


def test_without_options_a_process_is_alone() -> None:
    assert taken() is None


def test_options_and_variables_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = WorldConfig(4, 2, "leader.example", 9300)
    assert taken(world_size=4, world_rank=2, world_address="leader.example") == expected
    monkeypatch.setenv("LWS_GROUP_SIZE", "4")
    monkeypatch.setenv("LWS_WORKER_INDEX", "2")
    monkeypatch.setenv("LWS_LEADER_ADDRESS", "leader.example")
    assert taken(launcher="lws") == expected
    assert taken(launcher="lws", world_address="10.0.0.1:7000") == WorldConfig(4, 2, "10.0.0.1", 7000)
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "leader.example,b,c,d")
    monkeypatch.setenv("TPU_WORKER_ID", "2")
    assert taken(launcher="tpu") == expected
    assert expected.address == "leader.example:9300"
    assert expected.coordinator == "leader.example:9301"
    assert WorldConfig(2, 0, "::1", 80).address == "[::1]:80"


def test_a_group_of_one_is_no_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    monkeypatch.setenv("TPU_WORKER_ID", "0")
    assert taken(launcher="tpu") is None


def test_what_the_launcher_does_not_say_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LWS_GROUP_SIZE", raising=False)
    with pytest.raises(InvalidArgument, match="reads LWS_GROUP_SIZE from the environment, which is not set"):
        taken(launcher="lws")
    monkeypatch.setenv("LWS_GROUP_SIZE", "two")
    with pytest.raises(InvalidArgument, match="LWS_GROUP_SIZE from the environment, which is 'two' and no number"):
        taken(launcher="lws")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"world_size": 2}, "go together: give all three"),
        ({"world_size": 1, "world_rank": 0, "world_address": "a"}, "--world-size is 1"),
        ({"world_size": 2, "world_rank": 2, "world_address": "a"}, r"--world-rank is 2, but must be in 0\.\.1"),
        ({"world_size": 2, "world_rank": 0, "world_address": "a b:1"}, "must look like HOST:PORT"),
        ({"world_size": 2, "world_rank": 0, "world_address": "a:65535"}, "this one and the next must be ports"),
        ({"world_size": 2, "world_rank": 0, "world_address": "a", "world_silence_s": 0}, "--world-silence-s is 0"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        taken(**options)


@pytest.mark.parametrize(
    ("options", "rank", "says"),
    [
        ({}, 0, "give --slices with all of its devices"),
        ({"slices": "cpu=2,cpu=2"}, 0, "one slice"),
        ({"prefill_slices": "cpu=1", "generate_slices": "cpu=1"}, 0, "give --slices"),
        ({"slices": "cpu=2", "role": "both", "peers": "a:1"}, 1, "--peers are rank 0's"),
    ],
)
def test_a_world_is_one_engine(options: dict[str, str], rank: int, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        ServeConfig(world=WorldConfig(2, rank, "a"), **options)  # type: ignore[arg-type]
