"""An engine over several hosts: its pods find each other, and each does the same steps."""

from math import prod
from typing import Any

import jsonschema
import pytest

from tests.serving.deploy.command_lines import DEPLOY, parse
from tests.serving.deploy.manifests import KUBERNETES_VERSIONS, by_kind, container, only_container, part, read, validate

MANIFESTS = read((DEPLOY / "manifests" / "tpu-v5e-16.yaml").read_text())
SET = by_kind(MANIFESTS)["LeaderWorkerSet"]
TEMPLATE = SET["spec"]["leaderWorkerTemplate"]
LEADER, FOLLOWER = TEMPLATE["leaderTemplate"], TEMPLATE["workerTemplate"]
ALONE = {"host", "port", "http-port", "api-keys", "open-path", "drain-timeout-s", "log-format", "log-level"}


def _args(pod: dict[str, Any]) -> list[str]:
    args: list[str] = only_container(pod["spec"])["args"]
    return args


def _option(pod: dict[str, Any], name: str) -> str:
    (value,) = (word.removeprefix(f"--{name}=") for word in _args(pod) if word.startswith(f"--{name}="))
    return value


def test_leader_and_followers_are_given_the_same_engine() -> None:
    for pod in (LEADER, FOLLOWER):
        parse(_args(pod))
    of_leader, of_follower = set(_args(LEADER)), set(_args(FOLLOWER))
    assert of_follower < of_leader
    assert {word.removeprefix("--").partition("=")[0] for word in of_leader - of_follower} <= ALONE
    assert "--world=lws" in of_follower
    sizes = {name: _option(FOLLOWER, name) for name in ("slices", "max-model-len", "token-budget", "max-sessions")}
    assert sizes == {name: _option(LEADER, name) for name in sizes}


def test_processes_wait_for_each_other_as_long_as_a_start_may_take() -> None:
    probe = container(MANIFESTS)["startupProbe"]
    assert float(_option(FOLLOWER, "world-join-s")) >= probe["periodSeconds"] * probe["failureThreshold"]
    # SIGTERM at any of them has the server drain, and all end then.
    assert FOLLOWER["spec"]["terminationGracePeriodSeconds"] == LEADER["spec"]["terminationGracePeriodSeconds"]


def test_all_chips_of_the_slice_are_used() -> None:
    topology = LEADER["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = prod(map(int, topology.split("x")))
    assert _option(LEADER, "slices") == f"tpu={chips}"
    for pod in (LEADER, FOLLOWER):
        assert only_container(pod["spec"])["resources"]["limits"]["google.com/tpu"] * TEMPLATE["size"] == chips
        assert pod["spec"]["nodeSelector"] == LEADER["spec"]["nodeSelector"]


def test_followers_are_not_in_the_service() -> None:
    labels = FOLLOWER["metadata"]["labels"]
    assert not by_kind(MANIFESTS)["Service"]["spec"]["selector"].items() <= labels.items()
    assert not by_kind(MANIFESTS)["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert by_kind(MANIFESTS)["Service"]["spec"]["selector"].items() <= LEADER["metadata"]["labels"].items()


def test_an_engine_without_one_of_its_hosts_starts_anew() -> None:
    assert TEMPLATE["restartPolicy"] == "RecreateGroupOnPodRestart"
    assert SET["spec"].get("startupPolicy", "LeaderCreated") == "LeaderCreated", "a leader waits for its followers"


def test_hosts_reach_each_other_and_nobody_else() -> None:
    (policy,) = [m for m in MANIFESTS if m["kind"] == "NetworkPolicy" and part(m) == "follower"]
    for pod in (LEADER, FOLLOWER):
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (rule,) = policy["spec"]["ingress"]
    assert rule["from"] == [{"podSelector": policy["spec"]["podSelector"]}]
    assert {"to": rule["from"]} in policy["spec"]["egress"]
    assert {"http", "grpc"} == {port["name"] for port in container(MANIFESTS)["ports"]}
    assert "ports" not in only_container(FOLLOWER["spec"])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "size"), 4),
        (("spec", "leaderWorkerTemplate", "restartPolicy"), "Always"),
        (("spec", "leaderWorkerTemplate", "workerTemplate", "spec", "contaners"), []),
    ],
)
def test_schemas_refuse_what_is_wrong(path: tuple[str, ...], value: Any) -> None:
    wrong = by_kind(read((DEPLOY / "manifests" / "tpu-v5e-16.yaml").read_text()))["LeaderWorkerSet"]
    place = wrong
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        validate(wrong, KUBERNETES_VERSIONS[-1])
