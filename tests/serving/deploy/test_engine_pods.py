"""Engines in pods of their own: the server finds them, they fit it, and nobody else reaches them."""

import re
from typing import Any

from serving.config import ServeConfig
from tests.serving.deploy.command_lines import DEPLOY, parse
from tests.serving.deploy.manifests import Manifest, container, only_container, part, pod, read

MANIFESTS = read((DEPLOY / "manifests" / "gpu-h100-separate.yaml").read_text())
ENGINES = [manifest for manifest in MANIFESTS if part(manifest) == "engine"]
MUST_BE_EQUAL = ("model", "max-model-len")


def _of_kind(kind: str) -> Manifest:
    (found,) = [manifest for manifest in ENGINES if manifest["kind"] == kind]
    return found


def _options(args: list[str]) -> dict[str, str]:
    return dict(word.removeprefix("--").split("=", 1) for word in args if "=" in word)


def _engine() -> dict[str, Any]:
    return only_container(_of_kind("StatefulSet")["spec"]["template"]["spec"])


def test_the_server_names_every_engine() -> None:
    engines, names = _of_kind("StatefulSet"), _of_kind("Service")
    assert names["spec"]["clusterIP"] == "None", "each pod has a name of its own"
    assert names["spec"]["publishNotReadyAddresses"], "also while it compiles"
    assert engines["spec"]["serviceName"] == names["metadata"]["name"]
    hosts = [f"{engines['metadata']['name']}-{i}" for i in range(engines["spec"]["replicas"])]
    (port,) = _engine()["ports"]
    wanted = [f"{host}.{names['metadata']['name']}:{port['containerPort']}" for host in hosts]
    options = _options(container(MANIFESTS)["args"])
    config = ServeConfig(role=options["role"], peers=options["peers"], slices=options["slices"])
    assert list(config.peer_addresses) == wanted
    assert int(_options(_engine()["args"])["port"]) == port["containerPort"]
    (waiting,) = pod(MANIFESTS)["initContainers"]
    assert waiting["args"] == wanted, "it starts when they are there"
    compile(waiting["command"][-1], "wait-for-engines", "exec")


def test_roles_make_a_deployment() -> None:
    server, engine = _options(container(MANIFESTS)["args"]), _options(_engine()["args"])
    assert {server["role"], engine["role"]} == {"prefill", "generate"}
    assert _of_kind("StatefulSet")["spec"]["template"]["metadata"]["labels"]["s2l/role"] == engine["role"]
    parse(_engine()["args"])
    for name in MUST_BE_EQUAL:
        assert server[name] == engine[name]
    assert "log-format" not in engine, "what is of servers is given to servers"


def test_engines_have_the_servers_devices_and_rights() -> None:
    server, engine = container(MANIFESTS), _engine()
    for name in ("image", "resources", "securityContext"):
        assert engine[name] == server[name]
    spec = _of_kind("StatefulSet")["spec"]["template"]["spec"]
    for name in ("nodeSelector", "tolerations", "securityContext", "automountServiceAccountToken"):
        assert spec[name] == pod(MANIFESTS)[name]


def test_probes_wait_for_an_engine_that_compiles() -> None:
    engine = _engine()
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert engine[probe]["tcpSocket"]["port"] == engine["ports"][0]["name"]
    assert engine["startupProbe"]["periodSeconds"] * engine["startupProbe"]["failureThreshold"] >= 1800


def test_only_the_server_reaches_engines() -> None:
    policy, labels = (
        _of_kind("NetworkPolicy")["spec"],
        _of_kind("StatefulSet")["spec"]["template"]["metadata"]["labels"],
    )
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    (rule,) = policy["ingress"]
    (peer,) = rule["from"]
    (server,) = [manifest for manifest in MANIFESTS if manifest["kind"] == "Deployment"]
    assert peer["podSelector"]["matchLabels"] == server["spec"]["selector"]["matchLabels"]
    assert not peer["podSelector"]["matchLabels"].items() <= labels.items(), "not other engines"
    (of_server,) = [m for m in MANIFESTS if m["kind"] == "NetworkPolicy" and part(m) == "server"]
    ports = {port["port"] for rule in of_server["spec"]["egress"] for port in rule["ports"]}
    assert ports == {9100, 53}, "engines, and their names"


def test_an_old_server_lets_go_of_engines_before_a_new_one_starts() -> None:
    (server,) = [manifest for manifest in MANIFESTS if manifest["kind"] == "Deployment"]
    assert server["spec"]["strategy"] == {"type": "Recreate"}
    assert server["spec"]["replicas"] == 1


def test_the_servers_selectors_leave_engines_out() -> None:
    labels = _of_kind("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    for manifest in MANIFESTS:
        if part(manifest) == "server" and manifest["kind"] in {"Service", "PodDisruptionBudget"}:
            selector = manifest["spec"]["selector"]
            assert not selector.get("matchLabels", selector).items() <= labels.items()


def test_engines_are_not_in_the_gateways_pool() -> None:
    values = (DEPLOY / "gateway" / "llm-d-router.yaml").read_text()
    assert re.search(r"app\.kubernetes\.io/component: server", values)
