"""The manifests that the chart makes of its examples: they fit Kubernetes' schemas, and server and cluster agree."""

import hashlib
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jsonschema
import pytest

from serving.http.backend import Backend
from serving.http.metrics import metric_routes
from serving.http.probes import probe_routes
from serving.metrics.declared import METRICS
from serving.metrics.exposition import Exposition
from tests.serving.deploy.command_lines import DEPLOY, parse
from tests.serving.deploy.dockerfile import read_stages
from tests.serving.deploy.manifests import (
    KUBERNETES_VERSIONS,
    by_kind,
    container,
    pod,
    pod_template,
    read,
    validate,
    workload,
)

CHART = DEPLOY / "helm" / "s2l"
FILES = sorted((DEPLOY / "manifests").glob("*.yaml"))
MANIFESTS = {path.stem: read(path.read_text()) for path in FILES}
EVERY = pytest.mark.parametrize("name", MANIFESTS)
CLOSING_S = 15  # what the servers take to close after a drain


def test_every_example_has_manifests() -> None:
    assert [path.name for path in FILES] == sorted(path.name for path in (CHART / "examples").iterdir())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_manifests_are_of_this_chart(path: Path) -> None:
    files = sorted((file.as_posix(), file) for file in CHART.rglob("*") if file.is_file())
    checksum = hashlib.sha256(b"".join(file.read_bytes() for _, file in files)).hexdigest()
    assert checksum in path.read_text().partition("\n")[0], "the chart has changed: run tools/render_manifests.sh"


@EVERY
@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_manifests_fit_the_schemas(name: str, version: str) -> None:
    for manifest in MANIFESTS[name]:
        validate(manifest, version)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", ("spec", "template", "spec", "contaners"), []),
        ("Deployment", ("spec", "replicas"), "one"),
        ("Service", ("spec", "ports"), [{"port": "http"}]),
        ("PodMonitor", ("spec", "endpoints"), []),
        ("HorizontalPodAutoscaler", ("spec", "metrics"), [{"pods": {}}]),
    ],
)
def test_schemas_refuse_what_is_wrong(kind: str, path: tuple[str, ...], value: Any) -> None:
    wrong = by_kind(read((DEPLOY / "manifests" / "gpu-h100.yaml").read_text()))[kind]
    place = wrong
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        validate(wrong, KUBERNETES_VERSIONS[-1])


@EVERY
def test_the_server_takes_its_arguments(name: str) -> None:
    parse(container(MANIFESTS[name])["args"])


@EVERY
def test_the_pod_is_given_time_to_drain(name: str) -> None:
    server = container(MANIFESTS[name])
    pause_s = server["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain_s = int(_option(server["args"], "drain-timeout-s"))
    assert pod(MANIFESTS[name])["terminationGracePeriodSeconds"] >= pause_s + drain_s + CLOSING_S


@EVERY
def test_probes_ask_what_the_server_answers(name: str) -> None:
    server = container(MANIFESTS[name])
    model = SimpleNamespace(name="m", max_model_len=1)
    routes = {route.path for route in probe_routes(cast(Backend, SimpleNamespace(model=model))).routes}
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    assert ports == {
        "http": int(_option(server["args"], "http-port")),
        "grpc": int(_option(server["args"], "port")),
    }
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[probe]["httpGet"]["path"] in routes
        assert server[probe]["httpGet"]["port"] == "http"
    assert server["startupProbe"]["periodSeconds"] * server["startupProbe"]["failureThreshold"] >= 1800, "compiling"
    assert server["livenessProbe"]["httpGet"]["path"] == "/health", "a server that drains is not to be killed"


@EVERY
def test_devices_are_those_that_the_server_splits_over(name: str) -> None:
    manifests = MANIFESTS[name]
    server = container(manifests)
    devices = {key: value for key, value in server["resources"]["limits"].items() if "/" in key}
    assert devices == {key: value for key, value in server["resources"]["requests"].items() if "/" in key}
    platform = {"nvidia.com/gpu": "gpu", "google.com/tpu": "tpu"}
    slices = [one for word in server["args"] if "slices=" in word for one in word.partition("=")[2].split(",")]
    split: Counter[str] = Counter()
    for one in slices:
        kind, _, count = one.partition("=")
        split[kind] += int(count)
    hosts = workload(manifests)["spec"].get("leaderWorkerTemplate", {}).get("size", 1)
    assert split == {platform[resource]: count * hosts for resource, count in devices.items()}
    tolerated = {each["key"] for each in pod(manifests).get("tolerations", [])}
    assert set(devices) <= tolerated, "nodes with devices are tainted"


@pytest.mark.parametrize("name", ["tpu-v5e-8", "tpu-v5e-8-separate"])
def test_a_tpu_slice_is_one_host(name: str) -> None:
    manifests = MANIFESTS[name]
    selector = pod(manifests)["nodeSelector"]
    rows, columns = map(int, selector["cloud.google.com/gke-tpu-topology"].split("x"))
    assert container(manifests)["resources"]["limits"]["google.com/tpu"] == rows * columns
    assert selector["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5-lite-podslice"


@EVERY
def test_pods_have_no_more_rights_than_they_need(name: str) -> None:
    manifests = MANIFESTS[name]
    rights, of_pod = container(manifests)["securityContext"], pod(manifests)["securityContext"]
    assert rights["allowPrivilegeEscalation"] is False
    assert rights["readOnlyRootFilesystem"] is True
    assert rights["capabilities"]["drop"] == ["ALL"]
    assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(manifests)["automountServiceAccountToken"] is False
    is_root = name.startswith("tpu-")
    if is_root:
        assert rights["capabilities"]["add"] == ["SYS_RESOURCE"], "to raise the limit of locked memory"
    else:
        assert "add" not in rights["capabilities"]
        assert of_pod["runAsNonRoot"] is True
    user = read_stages(DEPLOY / "docker" / "Dockerfile")["cpu"].all("USER")[0].split(":")
    assert str(of_pod["runAsUser"]) == ("0" if is_root else user[0])
    assert str(of_pod["fsGroup"]) == user[1]


@EVERY
def test_keys_are_where_the_server_reads_them(name: str) -> None:
    manifests = MANIFESTS[name]
    args = container(manifests)["args"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container(manifests)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod(manifests)["volumes"]}
    keys = [word.removeprefix("--api-keys=") for word in args if word.startswith("--api-keys=")]
    assert bool(keys) == (name == "gpu-h100")
    for path in keys:
        secret = volumes[mounts[str(Path(path).parent)]]["secret"]
        assert secret["secretName"] == "s2l-api-keys"
        assert secret["defaultMode"] == 0o440, "for the pod's group, which is the server's"
        assert "--open-path=/metrics" in args, "Prometheus has no key"


@EVERY
def test_caches_are_where_the_image_looks(name: str) -> None:
    mounts = {mount["mountPath"]: mount["name"] for mount in container(MANIFESTS[name])["volumeMounts"]}
    assert set(mounts.values()) == {volume["name"] for volume in pod(MANIFESTS[name])["volumes"]}
    runtime = read_stages(DEPLOY / "docker" / "Dockerfile")["runtime"]
    (home,) = (word.removeprefix("HOME=") for line in runtime.all("ENV") for word in line.split() if "HOME=" in word)
    assert home in mounts
    assert "/tmp" in mounts, "the root is read-only"
    model = _option(container(MANIFESTS[name])["args"], "model")
    if model.startswith("/"):
        assert "/models" in mounts
        assert model.startswith("/models/")


@EVERY
def test_everything_selects_the_same_pods(name: str) -> None:
    found = by_kind(MANIFESTS[name])
    labels = pod_template(MANIFESTS[name])["metadata"]["labels"]
    selectors = [
        found["Service"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    selectors += [found[kind]["spec"]["selector"]["matchLabels"] for kind in found if kind.startswith("PodMonitor")]
    if "Deployment" in found:
        selectors.append(found["Deployment"]["spec"]["selector"]["matchLabels"])
    for selector in selectors:
        assert selector
        assert selector.items() <= labels.items()
    if "HorizontalPodAutoscaler" in found:
        target, scaled = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"], workload(MANIFESTS[name])
        assert (target["apiVersion"], target["kind"]) == (scaled["apiVersion"], scaled["kind"])
        assert target["name"] == scaled["metadata"]["name"]
        assert "replicas" not in scaled["spec"], "or each upgrade would undo the autoscaler's work"


def test_the_autoscaler_goes_by_a_metric_of_the_server() -> None:
    names = {name for metric in METRICS for name in (metric.name, *metric.also)}
    found = [by_kind(manifests).get("HorizontalPodAutoscaler") for manifests in MANIFESTS.values()]
    metrics = [metric["pods"]["metric"]["name"] for scaler in found if scaler for metric in scaler["spec"]["metrics"]]
    assert len(metrics) == 2
    for metric in metrics:
        # Google's adapter puts where it is from before a name and its type behind it.
        assert metric.removeprefix("prometheus.googleapis.com|").removesuffix("|gauge") in names


def test_monitors_ask_where_the_metrics_are() -> None:
    routes = {route.path for route in metric_routes(cast(Exposition, None)).routes}
    for manifests in MANIFESTS.values():
        for kind, endpoints in (("PodMonitor", "podMetricsEndpoints"), ("PodMonitoring", "endpoints")):
            if kind in by_kind(manifests):
                (endpoint,) = by_kind(manifests)[kind]["spec"][endpoints]
                assert endpoint["path"] in routes
                assert endpoint["port"] in {port["name"] for port in container(manifests)["ports"]}


def test_all_that_the_chart_can_make_is_in_some_example() -> None:
    made = {manifest["kind"] for manifests in MANIFESTS.values() for manifest in manifests}
    kinds = set()
    for template in (CHART / "templates").glob("*.yaml"):
        kinds |= set(re.findall(r"^kind: (\w+)$", template.read_text(), re.MULTILINE))
    assert kinds <= made
    assert {"PodMonitor", "PodMonitoring"} <= made


def _option(args: list[str], name: str) -> str:
    (value,) = (word.removeprefix(f"--{name}=") for word in args if word.startswith(f"--{name}="))
    return value
